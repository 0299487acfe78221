/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Dense layers: their packed weights, and the checks of their passes.
 */
#include <string.h>

#include "base/memory.h"
#include "dense/dense.h"
#include "kernels/choose.h"

static fl_status check_shape(const fl_dense_shape *shape)
{
    size_t bytes = 0;
    if ((shape->dtype != FL_F32 && shape->dtype != FL_F64) || shape->in_features == 0 || shape->out_features == 0)
        return FL_ERROR_ARGUMENT;
    /* Panels have columns of some more vectors. */
    return fl_add_product(&bytes, shape->in_features, shape->out_features, sizeof(double)) &&
                   fl_add_product(&bytes, shape->in_features, FL_ALIGNMENT, sizeof(double)) &&
                   fl_add_product(&bytes, shape->out_features, FL_ALIGNMENT, sizeof(double))
               ? FL_OK
               : FL_ERROR_SIZE;
}

fl_status fl_dense_pack(const fl_dense_shape *shape, fl_dense_pass pass, const void *weight, void **packed)
{
    if (shape == NULL || weight == NULL || packed == NULL || (pass != FL_DENSE_FORWARD && pass != FL_DENSE_BACKWARD))
        return FL_ERROR_ARGUMENT;
    const fl_status status = check_shape(shape);
    if (status != FL_OK)
        return status;
    const fl_kernels *kernels = fl_kernels_active(shape->dtype, FL_STORAGE_REAL);
    const bool forward = pass == FL_DENSE_FORWARD;
    const size_t N = forward ? shape->out_features : shape->in_features;
    const size_t K = forward ? shape->in_features : shape->out_features;
    const fl_panels panels = fl_panels_of(N, kernels->lanes);
    if (*packed == NULL) {
        const size_t bytes = panels.vectors * panels.lanes * K * kernels->weight_size;
        void *memory = fl_allocate(bytes + FL_ALIGNMENT); /* vectors may read a line behind */
        if (memory == NULL)
            return FL_ERROR_MEMORY;
        if (forward) /* what stands behind the last column stays as it is */
            memset(memory, 0, bytes);
        *packed = memory;
    }
    const fl_matrix matrix = {panels.N, K, weight, NULL};
    if (forward)
        kernels->pack_panels(&panels, &matrix, *packed);
    else
        kernels->pack_gate_panels(&panels, 1, K, weight, *packed);
    return FL_OK;
}

void fl_dense_release(void *packed) { fl_release(packed); }

static fl_status check_rows(const fl_dense_args *args)
{
    size_t bytes = 0;
    const fl_status status = check_shape(&args->shape);
    if (status != FL_OK)
        return status;
    return fl_add_product(&bytes, args->rows, args->shape.in_features, sizeof(double)) &&
                   fl_add_product(&bytes, args->rows, args->shape.out_features, sizeof(double))
               ? FL_OK
               : FL_ERROR_SIZE;
}

fl_status fl_dense_forward(const fl_dense_args *args)
{
    if (args == NULL || (args->rows != 0 && (args->packed == NULL || args->x == NULL || args->y == NULL)))
        return FL_ERROR_ARGUMENT;
    const fl_status status = check_rows(args);
    return status != FL_OK || args->rows == 0 ? status : fl_dense_run_forward(args);
}

fl_status fl_dense_backward(const fl_dense_args *args)
{
    if (args == NULL || args->dweight == NULL ||
        (args->rows != 0 && (args->x == NULL || args->dy == NULL || (args->dx != NULL && args->packed == NULL))))
        return FL_ERROR_ARGUMENT;
    const fl_status status = check_rows(args);
    if (status != FL_OK)
        return status;
    if (args->rows != 0)
        return fl_dense_run_backward(args);
    const size_t size = args->shape.dtype == FL_F32 ? sizeof(float) : sizeof(double);
    memset(args->dweight, 0, args->shape.in_features * args->shape.out_features * size);
    if (args->dbias != NULL)
        memset(args->dbias, 0, args->shape.out_features * size);
    return FL_OK;
}
