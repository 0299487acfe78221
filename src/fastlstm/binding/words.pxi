# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: gradients of the words of a table of which a step uses few: an embedding, or the weights of an
# input of indices.
#
# They stay beside the layer's flat_grads, which is zero there, until somebody asks for that array: he may look at it,
# and write to it, as long as he has it.  zero_grad begins anew, if nobody has it any more.

# Of the words of a table: where more have a gradient, they are added to flat_grads at once.
cdef size_t MOST_USED_PART = 4


# Bytes that the C library gives again and again without the system, which has to clear them first.
cdef size_t PASSING = 32 << 20


cdef ndarray passing(size_t size, int typenum):
    """A flat array that the next step forgets; its content is not set."""
    cdef npy_intp count = <npy_intp>size
    if size * 8 >= PASSING:
        return buffer(count, typenum, False)
    return <ndarray>PyArray_EMPTY(1, &count, typenum, 0)


@cython.final
cdef class Words:
    """What a layer knows of the gradients of its tables, which have the same words; any thread may ask.

    Parameters
    ----------
    dtype : numpy.dtype
    tables : list of tuple
        For each table ``(begin, words, width, by_columns)``: where it begins in flat_grads, how many words it has,
        elements of a word, and whether words are columns of it or rows.
    """

    cdef int typenum
    cdef size_t count, words, extent  # of tables, of words, and elements of a table
    cdef fl_table tables[2]
    cdef size_t begins[2]
    cdef object lock
    cdef bint is_clear   # flat_grads is zero where the tables are, and nobody else has had it since
    cdef ndarray used    # words with a gradient that flat_grads has not got, ascending; or None
    cdef list values     # of each table: (count, width)

    def __cinit__(self, dtype, list tables not None):
        cdef size_t n
        self.typenum = NPY_FLOAT32 if dtype == np.float32 else NPY_FLOAT64
        self.count = <size_t>len(tables)
        self.lock = new_lock()
        for n in range(self.count):
            self.begins[n], self.words, self.tables[n].width, self.tables[n].by_columns = tables[n]
            self.tables[n].words, self.tables[n].dtype = self.words, dtype_of(self.typenum)
            self.extent = self.words * self.tables[n].width

    cdef fl_columns columns(self, size_t n) noexcept:
        """The gradients of table `n`."""
        cdef fl_columns columns
        columns.count = 0
        if self.used is not None:
            columns.count = <size_t>PyArray_SIZE(self.used)
            columns.index = <const int64_t *>PyArray_DATA(self.used)
            columns.values = PyArray_DATA(<ndarray>self.values[n])
        return columns

    cdef size_t gap(self, size_t n, size_t size, size_t *end) noexcept nogil:
        """Where what is no table begins and ends: before table `n`, or behind the last."""
        end[0] = self.begins[n] if n < self.count else size
        return self.begins[n - 1] + self.extent if n > 0 else 0

    def settle(self, ndarray flat not None):
        """Add all to `flat`, which is the layer's array, before somebody gets it."""
        cdef size_t n, real_size = <size_t>PyArray_ITEMSIZE(flat)
        cdef fl_columns columns
        cdef char *data = <char *>PyArray_DATA(flat)
        with self.lock:
            self.is_clear = False
            for n in range(self.count if self.used is not None else 0):
                columns = self.columns(n)
                with nogil:
                    fl_add_words(&self.tables[n], &columns, data + self.begins[n] * real_size)
            self.used = self.values = None

    def clear(self, dict holder not None):
        """Set all gradients to zero; `holder` has the layer's array as ``_flat_grads``."""
        cdef ndarray flat = <ndarray>holder["_flat_grads"]
        cdef size_t n, begin, end = 0, size = <size_t>PyArray_SIZE(flat), real_size = <size_t>PyArray_ITEMSIZE(flat)
        cdef char *data = <char *>PyArray_DATA(flat)
        with self.lock:
            self.used = self.values = None
            if not (is_plain(flat, self.typenum) and PyArray_ISCARRAY(flat)):
                flat.fill(0)
                return
            with nogil:
                if not self.is_clear:
                    memset(data, 0, size * real_size)
                for n in range(self.count + 1 if self.is_clear else 0):
                    begin = self.gap(n, size, &end)
                    memset(data + begin * real_size, 0, (end - begin) * real_size)
            # Whoever got it meanwhile has it still, or waits for the lock to say that he will.
            self.is_clear = self.is_clear or Py_REFCNT(flat) == 2

    def add(self, ndarray used not None, list values not None):
        """Add gradients (count, width) of each table, which belong to this from here on, for words in ascending order.

        Returns whether it did; else they are to be added to flat_grads.
        """
        cdef size_t n
        if <size_t>PyArray_SIZE(used) > self.words // MOST_USED_PART:
            return False
        with self.lock:
            if not self.is_clear:
                return False
            if self.used is not None:
                together = np.union1d(self.used, used)
                if <size_t>PyArray_SIZE(together) > self.words // MOST_USED_PART:
                    return False
                before, then = np.searchsorted(together, self.used), np.searchsorted(together, used)
                sums = []
                with np.errstate(all="ignore"):
                    for n in range(self.count):
                        both = np.zeros((together.size, self.tables[n].width), values[n].dtype)
                        both[before] = self.values[n]
                        both[then] += values[n]
                        sums.append(both)
                used, values = together, sums
            self.used, self.values = used, values
        return True

    cdef bint add_tape(self, const fl_tape *tape) except -1:
        """`add` of the gradients that the last backward pass with this tape has left there."""
        cdef fl_columns columns
        cdef fl_dtype dtype = dtype_of(self.typenum)
        cdef size_t n
        cdef npy_intp[2] dims
        cdef ndarray used = None, each
        cdef list values = []
        cdef void *to
        if not self.is_clear:
            return False
        for n in range(self.count):
            check(fl_tape_index_gradient(tape, n, &columns))
            dims[0], dims[1] = <npy_intp>columns.count, <npy_intp>self.tables[n].width
            if columns.count > self.words // MOST_USED_PART:
                return False
            if used is None:
                used = <ndarray>PyArray_EMPTY(1, dims, NPY_INT64, 0)
                memcpy(PyArray_DATA(used), columns.index, columns.count * sizeof(int64_t))
            each = passing(columns.count * self.tables[n].width, self.typenum)
            to = PyArray_DATA(each)
            with nogil:
                memset(to, 0, columns.count * self.tables[n].width * (4 if dtype == FL_F32 else 8))
                fl_add(dtype, columns.count * self.tables[n].width, columns.values, to)  # none is -0
            values.append(each.reshape(dims[0], dims[1]))
        return self.add(used, values)


cdef Words words_of(Recurrent layer):
    """Those of the weights of an input of indices."""
    cdef Weights weights = layer.ready()
    cdef size_t direction, I = weights.shape.input_size, each = weights.size_of(0)
    cdef dict holder = layer.__dict__
    words = holder.get("_words")
    if words is None:
        width = weights.first[0].shape[0]
        tables = [(direction * each, I, width, True) for direction in range(weights.shape.num_directions)]
        words = holder.setdefault("_words", Words(weights.dtype, tables))
    return <Words?>words


def local_words(layer, parameter_set):
    """The words of a layer if all gradients of its tables are known by word; else None.

    Only where a step made the parameters: it makes denormal numbers zero, so that another one leaves words without
    gradient as they were packed.
    """
    words = layer.__dict__.get("_words")
    return words if words is not None and (<Words>words).is_clear and parameter_set.is_stepped else None
