/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/exact.h"
#include "fastlstm.h"

const char *fl_status_text(fl_status status)
{
    switch (status) {
    case FL_OK: return "no error";
    case FL_ERROR_ARGUMENT: return "an argument is null, zero or out of its range";
    case FL_ERROR_SIZE: return "a product of sizes does not fit the address space";
    case FL_ERROR_MEMORY: return "out of memory";
    case FL_ERROR_LENGTH: return "a length is negative or longer than the sequence";
    case FL_ERROR_INDEX: return "an integer input is outside 0 <= index < input_size";
    case FL_ERROR_INTERRUPTED: return "interrupted";
    case FL_ERROR_ISA: return "an instruction set that is unknown or not built";
    }
    return "unknown status";
}
