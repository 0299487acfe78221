# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: what a cell is, its parameters, and their packed form.


cdef int read_options(dict options, fl_cell_options *cell) except -1:
    """Fields of fl_cell_options by name; each that is not given is zero."""
    cdef fl_status status = FL_OK
    cdef bytes text
    cdef size_t n
    memset(cell, 0, sizeof(cell[0]))
    for name, value in options.items():
        if name == "activations":
            for n, (function, alpha, beta) in enumerate(value):
                text = (function or "").encode()
                status = fl_cell_set_activation(cell, n, <const char *>text if function else NULL, alpha, beta)
        elif isinstance(value, str):
            text = (<str>value).encode()
            status = fl_cell_set_option(cell, (<str>name).encode(), text, 0)
        else:
            status = fl_cell_set_option(cell, (<str>name).encode(), NULL, value or 0)
        if status != FL_OK:
            raise ValueError(f"options: expected fields of fl_cell_options, got {name}={value!r}")
    return 0


def cell_facts(dict options not None, size_t hidden_size):
    """What a cell is: letters of its gates in the order of their rows, letters of its states, width of h."""
    cdef fl_cell_options cell
    cdef fl_cell_facts facts
    read_options(options, &cell)
    check(fl_cell_get_facts(&cell, hidden_size, &facts))
    return facts.gates.decode(), facts.states.decode(), facts.width


def parameter_facts(dict options not None, size_t input_size, size_t hidden_size):
    """Name, shape and whether it may be missing, of each parameter that a cell with so many inputs has.

    Names are those of fl_weights, in the order of flat buffers.
    """
    cdef fl_stack_shape shape
    cdef fl_parameter_facts facts
    cdef size_t index
    memset(&shape, 0, sizeof(shape))
    shape.input_size, shape.hidden_size, shape.num_layers, shape.num_directions = input_size, hidden_size, 1, 1
    read_options(options, &shape.cell)
    result = []
    for index in range(FL_PARAMETER_COUNT):
        check(fl_parameter_get_facts(&shape, 0, index, &facts))
        if facts.dims != 0:
            shape_here = []
            for axis in range(facts.dims):
                shape_here.append(facts.shape[axis])
            result.append((facts.name.decode(), tuple(shape_here), bool(facts.is_optional)))
    return result


@cython.final
cdef class Lineage:
    """What the weights that follow each other in one layer share: memory that is packed again."""

    cdef fl_stack *spare
    cdef size_t waiting  # weights that are not packed yet

    def __dealloc__(self):
        with nogil:
            fl_stack_destroy(self.spare)


@cython.final
cdef class Weights:
    """The packed weights of a layer stack.  They never change: whoever holds a reference may call.

    Those of a layer are packed when they are first used, in the memory of others before them that nobody uses any more.

    Parameters
    ----------
    dtype : numpy.dtype or Weights
        float32 or float64; or others, from another source but else the same: `sizes`, `options`, `arrays` are None.
    sizes : tuple of int
        I, H, L, D.
    options : dict
        What the cell is: fields of fl_cell_options by name, with names in place of enumerations.
    arrays : sequence of dict or str
        For each layer, for each direction: by the names of fl_weights, of the shapes said there.  Biases may be
        missing.  Or the names alone, of all that each layer and direction has.
    source : object
        What the arrays belong to: kept for the layer.  A tuple holds the arguments of `packed`.  Where there are names
        alone, the parameters stand in ``source.flat``, in the order of fl_weights.
    begin : int
        Where the first of them stands in ``source.flat``, in elements.
    """

    cdef fl_stack *stack  # null until they are packed
    cdef fl_stack *partial   # or null: packed but for some columns of the first layer's weight_ih, and all others
    cdef ndarray used        # these columns, and their values for each direction
    cdef list values
    cdef Lineage lineage  # of those that have been, or will be, packed from `flat`
    cdef fl_stack_shape shape
    cdef int typenum
    cdef fl_parameter_facts first[FL_PARAMETER_COUNT]   # parameters of the first layer
    cdef fl_parameter_facts deeper[FL_PARAMETER_COUNT]  # and of all others
    cdef size_t width    # of h
    cdef size_t states   # beside h, each as wide as the hidden size
    cdef str letters     # of all states
    cdef double step_work  # of one row in one time step
    cdef readonly bint draws  # whether the cell has masks of its own in training
    cdef unsigned int fields  # bits of parameters that are given
    cdef size_t begin
    cdef ndarray flat         # all parameters of the layer
    cdef readonly object source

    def __cinit__(self, dtype, sizes, options, arrays, source=None, size_t begin=0):
        cdef size_t layer, direction
        cdef fl_status status
        if isinstance(dtype, Weights):
            self.follow(<Weights>dtype, source)
            return
        dtype = np.dtype(dtype)
        if dtype != np.float32 and dtype != np.float64:
            raise ValueError(f"dtype: expected float32 or float64, got {dtype}")
        self.typenum = NPY_FLOAT32 if dtype == np.float32 else NPY_FLOAT64
        self.shape.dtype = FL_F32 if dtype == np.float32 else FL_F64
        (self.shape.input_size, self.shape.hidden_size, self.shape.num_layers, self.shape.num_directions) = sizes
        read_options(options, &self.shape.cell)
        self.source = source
        self.begin = begin
        if source is not None and not isinstance(source, tuple):
            self.flat = <ndarray?>source.flat
        self.ask()
        if isinstance(arrays[0], str):
            self.put_names(arrays)
            self.join(Lineage())
            return
        with nogil:
            status = fl_stack_create(&self.shape, &self.stack)
        check(status)
        if <size_t>len(arrays) != self.rows():
            raise ValueError(f"arrays: expected {self.rows()} dicts, got {len(arrays)}")
        for layer in range(self.shape.num_layers):
            for direction in range(self.shape.num_directions):
                self.pack(layer, direction, arrays[layer * self.shape.num_directions + direction])

    def __dealloc__(self):
        cdef Lineage lineage = self.lineage
        cdef fl_stack *unused = self.stack
        cdef fl_stack *partial = self.partial
        if lineage is not None:
            if self.stack == NULL:
                lineage.waiting -= 1
                if lineage.waiting == 0:
                    unused, lineage.spare = lineage.spare, NULL
            elif lineage.waiting > 0 and lineage.spare == NULL:
                unused, lineage.spare = NULL, self.stack
        with nogil:
            fl_stack_destroy(unused)
            fl_stack_destroy(partial)

    cdef int take_over(self, Weights before, ndarray used, list values) except -1:
        """Pack what is different alone: these columns of the first weight_ih, whose values these are, and all others.

        Nobody has the weights before these any more.
        """
        if before.stack != NULL and self.stack == NULL:
            self.partial, self.used, self.values = before.stack, used, values
            before.stack, before.lineage = NULL, None
        return 0

    cdef int join(self, Lineage lineage) except -1:
        self.lineage = lineage
        lineage.waiting += 1
        return 0

    cdef int follow(self, Weights before, source) except -1:
        """Be what `before` is, with the parameters of another source."""
        cdef ndarray flat = <ndarray?>source.flat
        if before.lineage is None or PyArray_SIZE(flat) != PyArray_SIZE(before.flat):
            raise ValueError("source: expected parameters as those before, got others")
        self.shape, self.typenum, self.first, self.deeper = before.shape, before.typenum, before.first, before.deeper
        self.width, self.states, self.letters = before.width, before.states, before.letters
        self.step_work, self.draws, self.fields, self.begin = (
            before.step_work, before.draws, before.fields, before.begin)
        self.source, self.flat = source, flat
        self.join(before.lineage)
        return 0

    cdef int put_names(self, names) except -1:
        """Which parameters there are in `flat`."""
        cdef size_t n
        cdef npy_intp end
        for n in range(FL_PARAMETER_COUNT):
            if self.first[n].name.decode() in names and self.first[n].dims != 0:
                self.fields |= <unsigned int>1 << n
            elif self.first[n].dims != 0 and not self.first[n].is_optional:
                raise ValueError(f"arrays: expected {self.first[n].name.decode()} among the names, got {list(names)}")
        end = <npy_intp>(self.begin + self.size())
        if PyArray_SIZE(self.flat) < end or PyArray_TYPE(self.flat) != self.typenum:
            raise ValueError(f"source: expected {end} elements or more, got {PyArray_SIZE(self.flat)}")
        return 0

    cdef size_t size_of(self, size_t layer) noexcept:
        """Elements of the parameters of a layer in one direction."""
        cdef size_t n, total = 0
        cdef const fl_parameter_facts *facts = self.facts_of(layer)
        for n in range(FL_PARAMETER_COUNT):
            if self.fields >> n & 1:
                total += facts[n].shape[0] * facts[n].shape[1]
        return total

    cdef size_t size(self) noexcept:
        """Elements of all parameters."""
        return self.shape.num_directions * (
            self.size_of(0) + (self.shape.num_layers - 1) * self.size_of(self.shape.num_layers - 1))

    cdef fl_stack *packed_stack(self) except NULL:
        """The packed form: whoever asks first makes it."""
        if self.stack == NULL:
            self.pack_all()
        return self.stack

    cdef int pack_all(self) except -1:
        cdef fl_stack *stack = self.partial
        cdef fl_status status = FL_OK
        cdef fl_weights *all_weights
        cdef fl_columns *columns
        cdef fl_columns[2] changed
        cdef size_t place, D = self.shape.num_directions, count = self.rows(), known = 0
        cdef ndarray used = self.used
        cdef list values = self.values
        all_weights = <fl_weights *>PyMem_Malloc(count * sizeof(fl_weights))
        if all_weights == NULL:
            raise MemoryError
        if stack != NULL:
            known = D
            for place in range(D):
                changed[place].count = <size_t>PyArray_SIZE(used)
                changed[place].index = <const int64_t *>PyArray_DATA(used)
                changed[place].values = PyArray_DATA(<ndarray>values[place])
            self.partial, self.used, self.values = NULL, None, None
        else:
            stack, self.lineage.spare = self.lineage.spare, NULL
        point_at(self, <char *>PyArray_DATA(self.flat), <void *>all_weights, sizeof(fl_weights))
        with nogil:
            if stack == NULL:
                status = fl_stack_create(&self.shape, &stack)
            for place in range(count):
                if status == FL_OK:
                    columns = &changed[place] if place < known else NULL
                    status = fl_stack_repack(stack, place // D, place % D, all_weights + place, columns)
        PyMem_Free(all_weights)
        # Another thread may have been faster; nobody waited for a lock that a fork might leave locked.
        if status != FL_OK or self.stack != NULL:
            with nogil:
                fl_stack_destroy(stack)
            check(status)
            return 0
        self.stack = stack
        self.lineage.waiting -= 1
        return 0

    cdef void release(self) noexcept:
        """Give back what calls, and weights before these, have left."""
        cdef fl_stack *spare = NULL
        cdef fl_stack *stack = self.stack
        cdef fl_stack *partial = self.partial
        self.partial, self.used, self.values = NULL, None, None
        if self.lineage is not None:
            spare, self.lineage.spare = self.lineage.spare, NULL
        with nogil:
            fl_stack_release(stack)
            fl_stack_destroy(spare)
            fl_stack_destroy(partial)

    def __reduce__(self):
        if not isinstance(self.source, tuple):
            raise TypeError("Weights: expected packed ones, got those of a layer: pickle or copy the layer")
        return packed, self.source

    cdef int ask(self) except -1:
        """What the C core says of the cell."""
        cdef fl_cell_facts facts
        cdef size_t index
        check(fl_cell_get_facts(&self.shape.cell, self.shape.hidden_size, &facts))
        self.width = facts.width
        self.letters = facts.states.decode()
        self.states = <size_t>len(self.letters) - 1
        self.draws = facts.draws
        self.step_work = fl_shape_step_work(&self.shape)
        for index in range(FL_PARAMETER_COUNT):
            check(fl_parameter_get_facts(&self.shape, 0, index, &self.first[index]))
            check(fl_parameter_get_facts(&self.shape, self.shape.num_layers - 1, index, &self.deeper[index]))
        return 0

    cdef inline size_t rows(self) noexcept:
        """Layers and directions: of each state."""
        return self.shape.num_layers * self.shape.num_directions

    cdef inline double work(self, size_t T, size_t B) noexcept:
        """About how many multiply-adds a call takes."""
        return <double>T * <double>B * self.step_work

    cdef inline const fl_parameter_facts *facts_of(self, size_t layer) noexcept:
        return &self.first[0] if layer == 0 else &self.deeper[0]

    cdef int pack(self, size_t layer, size_t direction, dict arrays) except -1:
        cdef fl_weights weights
        cdef const void **field = <const void **>&weights
        cdef const fl_parameter_facts *facts
        cdef fl_status status
        cdef npy_intp[2] dims
        cdef size_t n
        cdef list pins = []
        memset(&weights, 0, sizeof(weights))
        given = dict(arrays)
        for n in range(FL_PARAMETER_COUNT):
            facts = self.facts_of(layer) + n
            name = facts.name.decode()
            if facts.dims == 0 or facts.is_optional and given.get(name) is None:
                continue
            dims[0], dims[1] = <npy_intp>facts.shape[0], <npy_intp>facts.shape[1]
            array = read_operand(given.pop(name, None), name, self.typenum, <int>facts.dims, dims)
            pins.append(array)
            field[n] = PyArray_DATA(<ndarray>array)
            self.fields |= <unsigned int>1 << n
        if any(value is not None for value in given.values()):
            raise ValueError(f"arrays: expected parameters that the cell has, got {sorted(given)}")
        with nogil:
            status = fl_stack_pack(self.stack, layer, direction, &weights)
        check(status)

    cdef bint has_no_options(self) noexcept:
        """Whether the cell is an LSTM as PyTorch has it."""
        cdef fl_cell_options none
        memset(&none, 0, sizeof(none))
        return memcmp(&none, &self.shape.cell, sizeof(none)) == 0

    @property
    def dtype(self):
        return np.dtype(np.float32 if self.typenum == NPY_FLOAT32 else np.float64)

    @property
    def input_size(self):
        return self.shape.input_size

    @property
    def hidden_size(self):
        return self.shape.hidden_size

    @property
    def num_layers(self):
        return self.shape.num_layers

    @property
    def num_directions(self):
        return self.shape.num_directions

    @property
    def output_size(self):
        """Width of h: the projected size, or the hidden size."""
        return self.width


cdef void point_at(Weights weights, char *flat, void *structs, size_t size) noexcept:
    """Where each parameter, or its gradient, stands in a flat buffer; one struct of so many bytes for each layer and
    direction."""
    cdef size_t place, n, offset = weights.begin * (4 if weights.typenum == NPY_FLOAT32 else 8)
    cdef size_t real_size = 4 if weights.typenum == NPY_FLOAT32 else 8
    cdef const fl_parameter_facts *facts
    memset(structs, 0, weights.rows() * size)
    for place in range(weights.rows()):
        facts = weights.facts_of(place // weights.shape.num_directions)
        for n in range(FL_PARAMETER_COUNT):
            if weights.fields >> n & 1:
                (<void **>(<char *>structs + place * size))[n] = flat + offset
                offset += facts[n].shape[0] * facts[n].shape[1] * real_size


cdef void point_at_parameters(Weights weights, ndarray gradients, fl_weights *first, fl_backward_args *args) noexcept:
    """Where each parameter and its gradient stand in the flat buffers; `first` has room for both structs of all."""
    cdef fl_gradients *gradient = <fl_gradients *>(first + weights.rows())
    point_at(weights, <char *>PyArray_DATA(weights.flat), <void *>first, sizeof(fl_weights))
    point_at(weights, <char *>PyArray_DATA(gradients), <void *>gradient, sizeof(fl_gradients))
    args.weights = first
    args.gradients = gradient
