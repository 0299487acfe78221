/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/memory.h"

#include <stdlib.h>

#include "platform/platform.h"

/* Streaming weights from beyond the L2 over 4 KiB pages loses time to page walks; 2 MiB is a huge page on x86-64 and
 * on aarch64 with 4 KiB pages. */
#define HUGE_PAGE ((size_t)2 << 20)

void *fl_allocate(size_t bytes)
{
    const bool huge = bytes >= HUGE_PAGE;
    if (bytes > (size_t)PTRDIFF_MAX / 2)
        return NULL;
    void *const memory = fl_system_allocate(huge ? HUGE_PAGE : FL_ALIGNMENT, fl_round_up(bytes + (bytes == 0)));
    if (huge && memory != NULL)
        fl_system_want_huge_pages(memory, bytes);
    return memory;
}

void fl_release(void *memory) { fl_system_free(memory); }

/* Whether the block is to shrink, after a call that needs so much. */
static bool has_too_much(fl_workspace *workspace, size_t bytes)
{
    if (workspace->is_fixed || workspace->bytes <= FL_FEW_BYTES || bytes > workspace->bytes / FL_FEW_PART) {
        workspace->few = workspace->most = 0;
        return false;
    }
    workspace->most = workspace->most > bytes ? workspace->most : bytes;
    return ++workspace->few >= FL_FEW_CALLS;
}

bool fl_workspace_fit(fl_workspace *workspace, size_t bytes)
{
    if (workspace->memory != NULL && workspace->bytes >= bytes) {
        if (!has_too_much(workspace, bytes))
            return true;
        bytes = workspace->most;
    }
    workspace->few = workspace->most = 0;
    fl_release(workspace->memory); /* first, so that there are never both */
    workspace->memory = fl_allocate(bytes);
    workspace->bytes = workspace->memory != NULL ? bytes : 0;
    return workspace->memory != NULL;
}

void fl_workspace_free(fl_workspace *workspace)
{
    if (workspace != NULL) {
        fl_release(workspace->memory);
        free(workspace);
    }
}
