// Add to sums the products over depths `start` to `end`, for the tile at (row0, column0). Shared
// memory has STAGES tiles of each side in turn: one is multiplied while the others are fetched. The
// including file has from_global(), which begins to fetch a tile, to_shared(), which stores what it
// has put into registers, and await_tile(), after which the tile begun STAGES - 1 before is there.
template <bool TOGETHER, class P>
__device__ void add_up(Tile& sums, const P& p, float* memory, int row0, int column0, int start,
                       int end) {
    Input *a = (Input*)memory, *b = a + STAGES * SIDE_A;
    Fetch<P, TOGETHER> next(p, row0, column0, start);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        from_global(next, p, end, a + i * SIDE_A, b + i * SIDE_B);
        to_shared(next, a + i * SIDE_A, b + i * SIDE_B);
        await_tile();
    }
    __syncthreads();
    int stage = 0, last = STAGES - 1;  // that of the last tile fetched
    for (; start < end; start += DEPTH) {
        bool more = start + (STAGES - 1) * DEPTH < end;
        if (more) from_global(next, p, end, a + last * SIDE_A, b + last * SIDE_B);
        sums.template multiply<P>(a + stage * SIDE_A, b + stage * SIDE_B);
        if (more) to_shared(next, a + last * SIDE_A, b + last * SIDE_B);
        await_tile();
        __syncthreads();
        last = stage, stage = stage == STAGES - 1 ? 0 : stage + 1;
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
