// The register tile: 64 x 64 results for each block of 256 threads, 4 x 4 of them for each thread.
// conv4_registers.cu tells why it is built like this; a problem P is as in convolution.cuh.

#define TILE 64
#define DEPTH 16
#define THREADS 256
#define EACH (TILE * DEPTH / THREADS)  // numbers of a and of b that a thread fetches

template <class P> struct Fetch {
    float a[EACH], b[EACH];

    // a: neighbouring threads have neighbouring depths, which lie together in x; b: columns.
    __device__ void load(const P& p, int row0, int column0, int start) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int at = threadIdx.x + i * THREADS;
            int row = row0 + at / DEPTH, d = start + at % DEPTH;
            a[i] = row < p.rows() && d < p.depth() ? p.a(row, d) : 0.0f;
            int column = column0 + at % TILE;
            d = start + at / TILE;
            b[i] = column < p.columns() && d < p.depth() ? p.b(d, column) : 0.0f;
        }
    }
    __device__ void store(float (*to_a)[TILE + 4], float (*to_b)[TILE]) const {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int at = threadIdx.x + i * THREADS;
            to_a[at % DEPTH][at / DEPTH] = a[i];
            to_b[at / TILE][at % TILE] = b[i];
        }
    }
};

// grid (ceil(rows / 64), ceil(columns / 64)), block (256)
template <class P> __device__ void product(P p) {
    // Turned, so that a thread's 4 rows are a vector.
    __shared__ __align__(16) float a[2][DEPTH][TILE + 4];
    __shared__ __align__(16) float b[2][DEPTH][TILE];
    int row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    int ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    Fetch<P> next;
    next.load(p, row0, column0, 0);
    next.store(a[0], b[0]);
    __syncthreads();
    for (int start = 0, half = 0; start < p.depth(); start += DEPTH, half ^= 1) {
        bool more = start + DEPTH < p.depth();
        if (more) next.load(p, row0, column0, start + DEPTH);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float4 a4 = *(const float4*)&a[half][d][ty];
            float4 b4 = *(const float4*)&b[half][d][tx];
            float rows[4] = {a4.x, a4.y, a4.z, a4.w}, columns[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += rows[i] * columns[j];
            }
        }
        if (more) next.store(a[half ^ 1], b[half ^ 1]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int row = row0 + ty + i, column = column0 + tx + j;
            if (row < p.rows() && column < p.columns()) p.store(row, column, sums[i][j]);
        }
    }
}
