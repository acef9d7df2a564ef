"""The fields of the tables that compiled code reads: indices of int64 in memory."""

# A product of one input with up to three matrices one below the other.
(PARTS, ROUNDS, COLUMNS, OUTS) = range(4)
PART = 4  # first field of the first matrix
(FUNCTION, WEIGHT, OUT, PIECE, PIECES, BIAS) = range(6)
PART_FIELDS = 6
LINEAR_FIELDS = PART + 3 * PART_FIELDS

# One layer.
(ATTENTION_NORM, FFN_NORM, Q_NORM, K_NORM, ROTARY, WINDOW) = range(6)
(KEYS, VALUES, KEY_SCALES, VALUE_SCALES) = range(6, 10)
WQKV = 10
WO, W13, W2 = (WQKV + index * LINEAR_FIELDS for index in (1, 2, 3))
LAYER_FIELDS = WQKV + 4 * LINEAR_FIELDS

# The model, and memory for MOST_ROWS tokens. A product alone is a model without layers and norm.
(LAYERS, N_LAYERS, DIM, N_HEADS, N_KV_HEADS, HEAD_DIM, HIDDEN_DIM, EPS, INTERLEAVED) = range(9)
(ANGLES, CACHE_KIND, MAX_SEQ_LEN, ATTEND, NORM, THREADS) = range(9, 15)
(QKV, RESULTS, GATE_UP, PRIVATE, PRIVATE_BYTES) = range(15, 20)
OUTPUT = 20
MODEL_FIELDS = OUTPUT + LINEAR_FIELDS

# One pass.
(MODEL, ROWS, POSITION, LOGIT_ROWS, X, LOGITS, COUNTERS) = range(7)
PASS_FIELDS = 7
MOST_ROWS = 64  # tokens of a pass
MOST_PARTS = 16  # of the context of one key-value head

# The threads of a team (``team.py``) share a table.
(PASS_NUMBER, STOP, FORWARD) = range(3)
SLOTS = 4  # passes whose tables exist at once
SLOT = 16  # first field of the first slot, in cache lines of its own
SLOT_FIELDS = 16
(WORKERS, THIS_PASS, RUNNING) = range(3)  # RUNNING: the number of the pass; 0 once it is finished
TEAM_FIELDS = SLOT + SLOTS * SLOT_FIELDS
COUNTER_BYTES = 128  # the counters of a stage, in cache lines of their own

F32_CACHE, BF16_CACHE, I8_CACHE = 0, 1, 2  # how keys and values are kept

UPPER_BYTE = 254  # steps of the upper byte of inputs that are rounded to 16 bits
