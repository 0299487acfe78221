# SPDX-License-Identifier: BSD-3-Clause
# Included by _core.pyx: what a cell is, its parameters, and their packed form.


cdef enum:
    FIELD_COUNT = 11

# Those of fl_weights and fl_gradients, which are pointers in this order; the order of flat buffers, too.
FIELDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch", "weight_hr", "bias_hr", "weight_ln_ih",
          "weight_ln_hh", "weight_ln_c", "bias_ln_c")
cdef unsigned int OPTIONAL = 1 << 2 | 1 << 3 | 1 << 6  # biases

KINDS = {"lstm": FL_CELL_LSTM, "gru": FL_CELL_GRU, "rnn": FL_CELL_RNN, "indrnn": FL_CELL_INDRNN,
         "slstm": FL_CELL_SLSTM, "mingru": FL_CELL_MINGRU, "minlstm": FL_CELL_MINLSTM}
COUPLINGS = {None: FL_COUPLING_NONE, "f_from_i": FL_F_FROM_I, "i_from_f": FL_I_FROM_F,
             "no_forget_gate": FL_NO_FORGET_GATE}
LAYER_NORMS = {None: FL_LAYER_NORM_NONE, "gate": FL_LAYER_NORM_GATE, "haste": FL_LAYER_NORM_HASTE}
ACTIVATIONS = {None: FL_ACTIVATION_DEFAULT, "Sigmoid": FL_SIGMOID, "Tanh": FL_TANH, "Relu": FL_RELU,
               "Affine": FL_AFFINE, "LeakyRelu": FL_LEAKY_RELU, "ThresholdedRelu": FL_THRESHOLDED_RELU,
               "ScaledTanh": FL_SCALED_TANH, "HardSigmoid": FL_HARD_SIGMOID, "Elu": FL_ELU,
               "Softsign": FL_SOFTSIGN, "Softplus": FL_SOFTPLUS}


cdef int read_options(dict options, fl_cell_options *cell) except -1:
    """Fields of fl_cell_options by name; each that is not given is zero."""
    cdef int n
    memset(cell, 0, sizeof(cell[0]))
    given = dict(options)
    cell.kind = <fl_cell_kind><int>KINDS[given.pop("kind", "lstm")]
    cell.coupling = <fl_coupling><int>COUPLINGS[given.pop("coupling", None)]
    cell.layer_norm = <fl_layer_norm><int>LAYER_NORMS[given.pop("layer_norm", None)]
    for n, (name, alpha, beta) in enumerate(given.pop("activations", ())[:3]):
        cell.activations[n].kind = <fl_activation_kind><int>ACTIVATIONS[name]
        cell.activations[n].alpha = alpha
        cell.activations[n].beta = beta
    cell.gate_clip = given.pop("gate_clip", 0)
    cell.peephole = given.pop("peephole", False)
    cell.cell_clip = given.pop("cell_clip", 0)
    cell.proj_size = given.pop("proj_size", 0)
    cell.proj_clip = given.pop("proj_clip", 0)
    cell.zoneout_c = given.pop("zoneout_c", 0)
    cell.zoneout_h = given.pop("zoneout_h", 0)
    cell.zoneout_expectation = given.pop("zoneout_expectation", False)
    cell.recurrent_dropout = given.pop("recurrent_dropout", 0)
    cell.recurrent_dropout_tied = given.pop("recurrent_dropout_tied", False)
    cell.reset_before = given.pop("reset_before", False)
    cell.heads = given.pop("heads", 0)
    cell.n_floor = given.pop("n_floor", 0)
    if given:
        raise ValueError(f"options: expected fields of fl_cell_options, got {sorted(given)}")
    return 0


@cython.final
cdef class Weights:
    """The packed weights of a layer stack.  They never change: whoever holds a reference may call.

    Parameters
    ----------
    dtype : numpy.dtype
        float32 or float64.
    input_size, hidden_size, num_layers, num_directions : int
        I, H, L, D.
    options : dict
        What the cell is: fields of fl_cell_options by name, with names in place of enumerations.
    cells : sequence of dict
        For each layer, for each direction: arrays by the names of fl_weights, of the shapes said there.
        Biases may be missing.
    source : object
        What the arrays of `cells` belong to: kept for the layer.  A tuple holds the arguments of `packed`.
    begin : int
        Where the first of them stands in ``source.flat``, in elements.
    """

    cdef fl_stack *stack
    cdef fl_stack_shape shape
    cdef int typenum
    cdef size_t gates    # rows of weight_ih, in units of H
    cdef size_t width    # of h
    cdef size_t states   # beside h, each as wide as the hidden size
    cdef bint has_pair   # (h, c), of one width
    cdef double step_work  # of one row in one time step
    cdef readonly bint draws  # whether the cell has masks of its own in training
    cdef unsigned int fields  # bits of FIELDS that there are
    cdef size_t begin
    cdef readonly object source

    def __cinit__(self, dtype, size_t input_size, size_t hidden_size, size_t num_layers,
                  size_t num_directions, dict options not None, cells, source=None, size_t begin=0):
        cdef size_t layer, direction
        dtype = np.dtype(dtype)
        if dtype != np.float32 and dtype != np.float64:
            raise ValueError(f"dtype: expected float32 or float64, got {dtype}")
        self.typenum = NPY_FLOAT32 if dtype == np.float32 else NPY_FLOAT64
        self.shape.dtype = FL_F32 if dtype == np.float32 else FL_F64
        self.shape.input_size = input_size
        self.shape.hidden_size = hidden_size
        self.shape.num_layers = num_layers
        self.shape.num_directions = num_directions
        read_options(options, &self.shape.cell)
        self.measure()
        self.source = source
        self.begin = begin
        check(fl_stack_create(&self.shape, &self.stack))
        if <size_t>len(cells) != num_layers * num_directions:
            raise ValueError(f"cells: expected {num_layers * num_directions}, got {len(cells)}")
        for layer in range(num_layers):
            for direction in range(num_directions):
                self.pack(layer, direction, cells[layer * num_directions + direction])

    def __dealloc__(self):
        fl_stack_destroy(self.stack)

    def __reduce__(self):
        if not isinstance(self.source, tuple):
            raise TypeError("Weights: expected packed ones, got those of a layer: pickle or copy the layer")
        return packed, self.source

    cdef void measure(self) noexcept:
        """Sizes that follow from the cell."""
        cdef fl_cell_kind kind = self.shape.cell.kind
        cdef size_t H = self.shape.hidden_size, layer
        cdef double work
        self.gates = 3
        if kind == FL_CELL_SLSTM or kind == FL_CELL_LSTM and self.shape.cell.coupling == FL_COUPLING_NONE:
            self.gates = 4
        elif kind == FL_CELL_RNN or kind == FL_CELL_INDRNN:
            self.gates = 1
        elif kind == FL_CELL_MINGRU:
            self.gates = 2
        self.states = 1 if kind == FL_CELL_LSTM else 3 if kind == FL_CELL_SLSTM else 0
        self.draws = (self.shape.cell.zoneout_c > 0 or self.shape.cell.zoneout_h > 0
                      or self.shape.cell.recurrent_dropout > 0)
        self.width = self.shape.cell.proj_size if self.shape.cell.proj_size != 0 else H
        self.has_pair = self.states == 1 and self.width == H
        for layer in range(self.shape.num_layers):
            work = <double>self.gates * (self.inputs(layer) + <double>self.recurrent_columns()) + 50.0
            work += self.shape.cell.proj_size
            self.step_work += self.shape.num_directions * H * work

    cdef inline size_t inputs(self, size_t layer) noexcept:
        return self.shape.input_size if layer == 0 else self.shape.num_directions * self.width

    cdef inline size_t recurrent_columns(self) noexcept:
        """Of weight_hh; 0 where there is none, or a diagonal."""
        cdef fl_cell_kind kind = self.shape.cell.kind
        if kind == FL_CELL_SLSTM:
            return self.shape.hidden_size // (self.shape.cell.heads if self.shape.cell.heads != 0 else 1)
        return self.width if kind == FL_CELL_LSTM or kind == FL_CELL_GRU or kind == FL_CELL_RNN else 0

    cdef int field_shape(self, size_t layer, int field, npy_intp *dims) noexcept:
        """Dimensions of a parameter: their number, 0 where the cell has no such parameter."""
        cdef const fl_cell_options *cell = &self.shape.cell
        cdef npy_intp H = <npy_intp>self.shape.hidden_size, rows = <npy_intp>self.gates * H
        cdef bint recurs = self.recurrent_columns() != 0
        dims[0] = rows
        if field == 0:
            dims[1] = <npy_intp>self.inputs(layer)
            return 2
        if field == 1 and cell.kind == FL_CELL_INDRNN:
            dims[0] = H
            return 1
        if field == 1:
            dims[1] = <npy_intp>self.recurrent_columns()
            return 2 * recurs
        if field == 2:
            return 1
        if field == 3:
            return recurs and cell.kind != FL_CELL_SLSTM
        if field == 4:
            dims[0] = rows - H
            return cell.peephole
        if field == 5:
            dims[0], dims[1] = <npy_intp>cell.proj_size, H
            return 2 * (cell.proj_size != 0)
        if field == 6:
            dims[0] = <npy_intp>cell.proj_size
            return cell.proj_size != 0
        if field == 7:
            return cell.layer_norm != FL_LAYER_NORM_NONE
        if field == 8:
            return cell.layer_norm == FL_LAYER_NORM_HASTE
        dims[0] = H
        return cell.layer_norm == FL_LAYER_NORM_HASTE

    cdef int pack(self, size_t layer, size_t direction, dict cell) except -1:
        cdef fl_weights weights
        cdef const void **field = <const void **>&weights
        cdef fl_status status
        cdef npy_intp[2] dims
        cdef int nd, n
        cdef list arrays = []
        memset(&weights, 0, sizeof(weights))
        given = dict(cell)
        for n in range(FIELD_COUNT):
            nd = self.field_shape(layer, n, dims)
            name = FIELDS[n]
            if nd == 0 or OPTIONAL >> n & 1 and given.get(name) is None:
                continue
            array = read_operand(given.pop(name, None), name, self.typenum, nd, dims)
            arrays.append(array)
            field[n] = PyArray_DATA(<ndarray>array)
            self.fields |= <unsigned int>1 << n
        if any(value is not None for value in given.values()):
            raise ValueError(f"cells: expected parameters that the cell has, got {sorted(given)}")
        with nogil:
            status = fl_stack_pack(self.stack, layer, direction, &weights)
        check(status)

    cdef bint is_plain_lstm(self) noexcept:
        """Whether the cell is PyTorch's LSTM without options."""
        cdef fl_cell_options plain
        memset(&plain, 0, sizeof(plain))
        return memcmp(&plain, &self.shape.cell, sizeof(plain)) == 0

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


cdef void point_at_parameters(Weights weights, ndarray params, ndarray gradients, fl_weights *cells,
                              fl_backward_args *args) noexcept:
    """Where each parameter and its gradient stand in the flat buffers; `cells` has room for both structs."""
    cdef size_t count = weights.shape.num_layers * weights.shape.num_directions
    cdef fl_gradients *gradient = <fl_gradients *>(cells + count)
    cdef size_t real_size = <size_t>PyArray_ITEMSIZE(params), cell, offset = weights.begin * real_size
    cdef char *p = <char *>PyArray_DATA(params)
    cdef char *g = <char *>PyArray_DATA(gradients)
    cdef npy_intp[2] dims
    cdef int n, nd
    memset(cells, 0, count * (sizeof(fl_weights) + sizeof(fl_gradients)))
    for cell in range(count):
        for n in range(FIELD_COUNT):
            if not weights.fields >> n & 1:
                continue
            (<const void **>(cells + cell))[n] = p + offset
            (<void **>(gradient + cell))[n] = g + offset
            nd = weights.field_shape(cell // weights.shape.num_directions, n, dims)
            offset += <size_t>dims[0] * (<size_t>dims[1] if nd == 2 else 1) * real_size
    args.weights = cells
    args.gradients = gradient
