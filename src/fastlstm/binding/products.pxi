# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: the products of a dense layer.


@cython.final
cdef class Products:
    """The weights of a dense layer as its products take them; packed when a pass first needs them.

    Parameters
    ----------
    dtype : numpy.dtype
        float32 or float64.
    in_features, out_features : int
    """

    cdef fl_dense_shape shape
    cdef int typenum
    cdef void *packed[2]  # for each pass, or null
    cdef void *spare[2]   # memory for it
    cdef ndarray scratch  # of a backward pass that is done

    def __cinit__(self, dtype, size_t in_features, size_t out_features):
        self.typenum = NPY_FLOAT32 if dtype == np.float32 else NPY_FLOAT64
        self.shape.dtype = dtype_of(self.typenum)
        self.shape.in_features, self.shape.out_features = in_features, out_features

    def __dealloc__(self):
        cdef int n
        with nogil:
            for n in range(2):
                fl_dense_release(self.packed[n])
                fl_dense_release(self.spare[n])

    def renew(self):
        """The weights are others; nobody uses what was packed."""
        cdef void *unused
        cdef int n
        for n in range(2):
            if self.packed[n] != NULL:
                unused, self.spare[n], self.packed[n] = self.spare[n], self.packed[n], NULL
                with nogil:
                    fl_dense_release(unused)

    cdef const void *ready(self, fl_dense_pass which, ndarray flat) except NULL:
        cdef void *memory = self.spare[<int>which]
        cdef void *weight = PyArray_DATA(flat)
        cdef fl_status status
        if self.packed[<int>which] == NULL:
            self.spare[<int>which] = NULL
            with nogil:
                status = fl_dense_pack(&self.shape, which, weight, &memory)
            if status != FL_OK or self.packed[<int>which] != NULL:  # another thread may have been faster
                with nogil:
                    fl_dense_release(memory)
                check(status)
            else:
                self.packed[<int>which] = memory
        return self.packed[<int>which]

    cdef int fill(self, fl_dense_args *args, ndarray flat, size_t rows) except -1:
        cdef npy_intp weights = <npy_intp>(self.shape.in_features * self.shape.out_features)
        memset(args, 0, sizeof(args[0]))
        args.shape, args.rows = self.shape, rows
        if PyArray_SIZE(flat) != weights:
            args.bias = <char *>PyArray_DATA(flat) + weights * PyArray_ITEMSIZE(flat)
        return 0

    cdef int check_flat(self, ndarray flat) except -1:
        cdef npy_intp out = <npy_intp>self.shape.out_features, weights = out * <npy_intp>self.shape.in_features
        cdef npy_intp size = PyArray_SIZE(flat)
        flat_buffer(flat, "flat", self.typenum, weights if size == weights else weights + out, False)
        return 0

    def forward(self, ndarray flat not None, ndarray x not None):
        """``x W' + b`` for rows x (rows, in_features), contiguous; `flat` are the weights and the bias, if any."""
        cdef fl_dense_args args
        cdef fl_status status
        cdef npy_intp[2] dims
        cdef ndarray y
        self.check_flat(flat)
        self.fill(&args, flat, self.rows_of(x, "x", self.shape.in_features))
        args.x = PyArray_DATA(x)
        dims[0], dims[1] = <npy_intp>args.rows, <npy_intp>self.shape.out_features
        y = <ndarray>PyArray_EMPTY(2, dims, self.typenum, 0)
        args.y = PyArray_DATA(y)
        args.packed = self.ready(FL_DENSE_FORWARD, flat)
        with nogil:
            status = fl_dense_forward(&args)
        check(status)
        return y

    def backward(self, ndarray flat not None, ndarray x not None, ndarray dy not None):
        """Gradients of x, and of `flat` in one array, which is lent: `give_back` it."""
        cdef fl_dense_args args
        cdef fl_status status
        cdef ndarray dx, scratch = self.scratch
        cdef size_t weights = self.shape.in_features * self.shape.out_features
        self.check_flat(flat)
        self.fill(&args, flat, self.rows_of(x, "x", self.shape.in_features))
        if self.rows_of(dy, "dy", self.shape.out_features) != args.rows:
            raise ValueError(f"dy: expected {args.rows} rows, got {len(dy)}")
        self.scratch = None
        if scratch is None or PyArray_SIZE(scratch) != PyArray_SIZE(flat):
            scratch = buffer(PyArray_SIZE(flat), self.typenum, False)
        dx = <ndarray>PyArray_EMPTY(2, PyArray_DIMS(x), self.typenum, 0)
        args.x, args.dy = PyArray_DATA(x), PyArray_DATA(dy)
        args.dx, args.dweight = PyArray_DATA(dx), PyArray_DATA(scratch)
        if args.bias != NULL:
            args.dbias = <char *>PyArray_DATA(scratch) + weights * <size_t>PyArray_ITEMSIZE(scratch)
        args.packed = self.ready(FL_DENSE_BACKWARD, flat)
        with nogil:
            status = fl_dense_backward(&args)
        check(status)
        return dx, scratch

    def give_back(self, ndarray scratch not None):
        """Keep the memory of gradients for the next pass."""
        self.scratch = scratch

    cdef size_t rows_of(self, ndarray array, str name, size_t features) except? 123456789:
        if not (is_plain(array, self.typenum) and PyArray_NDIM(array) == 2 and PyArray_IS_C_CONTIGUOUS(array)
                and <size_t>PyArray_DIMS(array)[1] == features):
            raise ValueError(f"{name}: expected contiguous rows of {features} elements, got {np.shape(array)}")
        return <size_t>PyArray_DIMS(array)[0]


def add_flat(ndarray x not None, list outs not None):
    """``out += part`` for flat buffers, parts of `x` one behind the other: all, or nothing after an exception."""
    cdef int typenum = flat_typenum(x, "x")
    cdef npy_intp size = 0
    cdef size_t n, count = <size_t>len(outs), begin = 0
    cdef fl_dtype dtype = dtype_of(typenum)
    cdef char *source
    cdef void *to
    for out in outs:
        size += PyArray_SIZE(flat_buffer(out, "out", typenum, PyArray_SIZE(<ndarray?>out), True))
    source = <char *>PyArray_DATA(flat_buffer(x, "x", typenum, size, False))
    for n in range(count):
        to = PyArray_DATA(<ndarray>outs[n])
        size = PyArray_SIZE(<ndarray>outs[n])
        with nogil:
            fl_add(dtype, <size_t>size, source + begin, to)
        begin += <size_t>(size * PyArray_ITEMSIZE(x))
