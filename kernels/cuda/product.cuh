// The register tile: TILE x COLUMNS results for each block, 4 x 4 of them for each thread.
// conv4_registers.cu tells why it is built like this; a problem P is as in convolution.cuh.

#define TILE 64
#ifndef COLUMNS
#define COLUMNS 64  // or 32, for pictures of few channels
#endif
#define DEPTH 16
#define THREADS (TILE / 4 * (COLUMNS / 4))
#define FETCH_A (TILE * DEPTH / 4 / THREADS)     // vectors of a that a thread fetches
#define FETCH_B (COLUMNS * DEPTH / 4 / THREADS)  // and of b
// Shared memory: two tiles of a, two of b. The four more make turned stores meet fewer banks.
#define LINE_A (TILE + 4)
#define LINE_B (COLUMNS + 4)
#define MEMORY (2 * DEPTH * (LINE_A + LINE_B))

// Four numbers from one number on, one by one where they may not come together.
#define FOUR(result, together, one, inside)                                          \
    float4 result = make_float4(0.0f, 0.0f, 0.0f, 0.0f);                             \
    if (p.vector()) {                                                                \
        const int j = 0;                                                             \
        if (inside) result = together;                                               \
    } else {                                                                         \
        float numbers[4] = {};                                                       \
        _Pragma("unroll") for (int j = 0; j < 4; j++) if (inside) numbers[j] = one;  \
        result = make_float4(numbers[0], numbers[1], numbers[2], numbers[3]);        \
    }

template <class P> struct Fetch {
    float4 a[FETCH_A], b[FETCH_B];

    // Which vector of a tile is the thread's i-th: `fast` runs along what lies together.
    __device__ static void place(int i, int length, int& fast, int& slow) {
        int at = threadIdx.x + i * THREADS;
        fast = at % (length / 4) * 4;
        slow = at / (length / 4);
    }
    __device__ void load(const P& p, int row0, int column0, int start, int end) {
#pragma unroll
        for (int i = 0; i < FETCH_A; i++) {
            int row, d;
            if (P::a_along_depth) {
                place(i, DEPTH, d, row);
                row += row0, d += start;
                FOUR(four, p.a4(row, d), p.a(row, d + j), row < p.rows() && d + j < end);
                a[i] = four;
            } else {
                place(i, TILE, row, d);
                row += row0, d += start;
                FOUR(four, p.a4(row, d), p.a(row + j, d), row + j < p.rows() && d < end);
                a[i] = four;
            }
        }
#pragma unroll
        for (int i = 0; i < FETCH_B; i++) {
            int column, d;
            if (P::b_along_columns) {
                place(i, COLUMNS, column, d);
                column += column0, d += start;
                FOUR(four, p.b4(d, column), p.b(d, column + j),
                     column + j < p.columns() && d < end);
                b[i] = four;
            } else {
                place(i, DEPTH, d, column);
                column += column0, d += start;
                FOUR(four, p.b4(d, column), p.b(d + j, column),
                     column < p.columns() && d + j < end);
                b[i] = four;
            }
        }
    }
    // Into the tiles, in which a row is one depth: what lies along the depth is turned.
    __device__ static void put(float* tile, int width, bool turned, int fast, int slow, float4 v) {
        if (turned) {
            float numbers[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int j = 0; j < 4; j++) tile[(fast + j) * width + slow] = numbers[j];
        } else {
            *(float4*)&tile[slow * width + fast] = v;
        }
    }
    __device__ void store(float* to_a, float* to_b) const {
        int fast, slow;
#pragma unroll
        for (int i = 0; i < FETCH_A; i++) {
            place(i, P::a_along_depth ? DEPTH : TILE, fast, slow);
            put(to_a, LINE_A, P::a_along_depth, fast, slow, a[i]);
        }
#pragma unroll
        for (int i = 0; i < FETCH_B; i++) {
            place(i, P::b_along_columns ? COLUMNS : DEPTH, fast, slow);
            put(to_b, LINE_B, !P::b_along_columns, fast, slow, b[i]);
        }
    }
};

struct Tile {
    float sums[4][4];
    __device__ static int row() { return threadIdx.x / (COLUMNS / 4) * 4; }
    __device__ static int column() { return threadIdx.x % (COLUMNS / 4) * 4; }

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < 16; i++) sums[i / 4][i % 4] = 0.0f;
    }
    // Add the sums over the depths from `start` to `end`, of the tile that begins at (row0, column0).
    template <class P>
    __device__ void add_up(const P& p, float* memory, int row0, int column0, int start, int end) {
        float *a = memory, *b = memory + 2 * DEPTH * LINE_A;
        Fetch<P> next;
        next.load(p, row0, column0, start, end);
        next.store(a, b);
        __syncthreads();
        for (int half = 0; start < end; start += DEPTH, half ^= 1) {
            const float *a_now = a + half * DEPTH * LINE_A, *b_now = b + half * DEPTH * LINE_B;
            bool more = start + DEPTH < end;
            if (more) next.load(p, row0, column0, start + DEPTH, end);
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                float4 a4 = *(const float4*)&a_now[d * LINE_A + row()];
                float4 b4 = *(const float4*)&b_now[d * LINE_B + column()];
                float rows[4] = {a4.x, a4.y, a4.z, a4.w}, columns[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) sums[i][j] += rows[i] * columns[j];
                }
            }
            int other = half ^ 1;
            if (more) next.store(a + other * DEPTH * LINE_A, b + other * DEPTH * LINE_B);
            __syncthreads();
        }
    }
    template <class P> __device__ void store(const P& p, int row0, int column0) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int row = row0 + Tile::row() + i, column = column0 + Tile::column() + j;
                if (row < p.rows() && column < p.columns()) p.store(row, column, sums[i][j]);
            }
        }
    }
};

// grid (ceil(rows / TILE), ceil(columns / COLUMNS)), block (THREADS)
template <class P> __device__ void product(const P& p) {
    __shared__ __align__(16) float memory[MEMORY];
    Tile tile;
    tile.clear();
    tile.add_up(p, memory, blockIdx.x * TILE, blockIdx.y * COLUMNS, 0, p.depth());
    tile.store(p, blockIdx.x * TILE, blockIdx.y * COLUMNS);
}
