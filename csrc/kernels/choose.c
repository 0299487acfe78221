/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Choosing kernels: for each dtype and storage the last table of the list whose needs this machine has, below the cap.  So
 * a set that supplies one storage alone fills holes, and its own holes are filled from below.
 */
#include "kernels/choose.h"

#include <string.h>

#include "base/machine.h"
#include "kernels/isa_list.h"

/* Tables that are not built are not linked: a weak zero would hide a mistake in the build. */
#define FL_BUILT_generic 1
#if defined(FL_HAVE_NEON)
#define FL_BUILT_neon 1
#else
#define FL_BUILT_neon 0
#endif
#if defined(FL_HAVE_AVX2)
#define FL_BUILT_avx2 1
#else
#define FL_BUILT_avx2 0
#endif
#if defined(FL_HAVE_AVX512)
#define FL_BUILT_avx512 1
#else
#define FL_BUILT_avx512 0
#endif

#define DECLARE(name, needs, allows) extern const fl_kernels fl_kernels_##name##_f32, fl_kernels_##name##_f64;
FL_ISA_LIST(DECLARE)

typedef struct isa_entry {
    const char *name;
    unsigned needs, allows;                         /* abilities */
    const fl_kernels *kernels[FL_STORAGE_COUNT][2]; /* by dtype; null where not built */
} isa_entry;

#define IF_BUILT_(built, table) IF_BUILT_##built(table)
#define IF_BUILT_1(table) &table
#define IF_BUILT_0(table) NULL
#define IF_BUILT(built, table) IF_BUILT_(built, table)
#define ENTRY(name, needs, allows) \
    {#name,                        \
     needs,                        \
     allows,                       \
     {{IF_BUILT(FL_BUILT_##name, fl_kernels_##name##_f32), IF_BUILT(FL_BUILT_##name, fl_kernels_##name##_f64)}}},

static const isa_entry entries[] = {FL_ISA_LIST(ENTRY)};
_Static_assert(sizeof entries / sizeof *entries == FL_ISA_COUNT, "FL_ISA_COUNT is the length of FL_ISA_LIST");

/* What is in use: tables, and the name of the set that supplies the first storage. */
static const isa_entry *active = &entries[0];
static const fl_kernels *chosen[FL_STORAGE_COUNT][2] = {{&fl_kernels_generic_f32, &fl_kernels_generic_f64}};

static bool is_built(const isa_entry *entry) { return entry->kernels[FL_STORAGE_REAL][FL_F32] != NULL; }

fl_isa_info fl_isa_get(size_t index)
{
    const isa_entry *entry = &entries[index < FL_ISA_COUNT ? index : 0];
    const bool runs = (fl_machine_abilities() & entry->needs) == entry->needs;
    const fl_isa_info info = {entry->name, is_built(entry), is_built(entry) && runs};
    return info;
}

fl_status fl_isa_select(const char *max_isa)
{
    size_t cap = FL_ISA_COUNT;
    unsigned allowed = fl_machine_abilities();
    for (size_t n = 0; n < FL_ISA_COUNT && max_isa != NULL; n++)
        if (strcmp(entries[n].name, max_isa) == 0)
            cap = n;
    if (max_isa != NULL) {
        if (cap == FL_ISA_COUNT || !is_built(&entries[cap]))
            return FL_ERROR_ISA;
        allowed &= entries[cap].allows;
    }
    for (size_t n = 0; n < FL_ISA_COUNT; n++) {
        const isa_entry *entry = &entries[n];
        if ((entry->needs & allowed) != entry->needs)
            continue;
        for (size_t storage = 0; storage < FL_STORAGE_COUNT; storage++)
            for (size_t dtype = 0; dtype < 2; dtype++)
                if (entry->kernels[storage][dtype] != NULL)
                    chosen[storage][dtype] = entry->kernels[storage][dtype];
        if (is_built(entry))
            active = entry;
    }
    fl_machine_read_caches();
    return FL_OK;
}

const char *fl_isa_active(void) { return active->name; }

const fl_kernels *fl_kernels_active(fl_dtype dtype, fl_storage storage) { return chosen[storage][dtype]; }
