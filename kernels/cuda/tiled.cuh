// Add to sums the products over depths `start` to `end`, for the tile at (row0, column0). While one
// tile is multiplied the next is fetched, and then stored in the other half of shared memory.
template <bool TOGETHER, class P>
__device__ void add_up(Tile& sums, const P& p, float* memory, int row0, int column0, int start,
                       int end) {
    Input *a = (Input*)memory, *b = a + 2 * SIDE_A;
    Fetch<P, TOGETHER> next(p, row0, column0, start);
    next.load(p, end);
    to_shared(next, a, b);
    __syncthreads();
    for (int half = 0; start < end; start += DEPTH, half ^= 1) {
        bool more = start + DEPTH < end;
        if (more) next.load(p, end);
        sums.template multiply<P>(a + half * SIDE_A, b + half * SIDE_B);
        int other = half ^ 1;
        if (more) to_shared(next, a + other * SIDE_A, b + other * SIDE_B);
        __syncthreads();
    }
}

template <class P>
__device__ void add_up(Tile& sums, const P& p, float* memory, int row0, int column0, int start,
                       int end) {
    if (p.vector()) {
        add_up<true>(sums, p, memory, row0, column0, start, end);
    } else {
        add_up<false>(sums, p, memory, row0, column0, start, end);
    }
}

// Compute a matrix product by the including file's Tile, which has TILE x COLUMNS results in
// THREADS threads and uses MEMORY floats of shared memory.
// grid (ceil(rows / TILE), ceil(columns / COLUMNS)), block (THREADS)
template <class P> __device__ void product(const P& p) {
    __shared__ __align__(32) float memory[MEMORY];
    int row0 = blockIdx.x * TILE, column0 = blockIdx.y * COLUMNS;
    Tile tile;
    tile.clear();
    add_up(tile, p, memory, row0, column0, 0, p.depth());
    tile.store(p, memory, row0, column0);
}
