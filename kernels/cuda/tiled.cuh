// Add to sums the products over depths `start` to `end`, for the tile at (row0, column0). Shared
// memory has STAGES tiles of both sides in turn: one is multiplied while others are fetched. The
// including file has from_global(), which begins to fetch one side of a tile, to_shared(), which
// stores what it has put into registers, and await_tile(), after which the tile begun STAGES - 1
// before is there.
template <bool TOGETHER, class P>
__device__ void add_up(Tile& sums, const P& p, float* memory, int row0, int column0, int start,
                       int end) {
    const int SIDES = SIDE_A + SIDE_B;
    Input *a = (Input*)memory, *b = a + SIDE_A;
    Fetch<P, TOGETHER> next(p, row0, column0, start);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        from_global(next.a, p, end - start - i * DEPTH, a + i * SIDES);
        from_global(next.b, p, end - start - i * DEPTH, b + i * SIDES);
        to_shared(next.a, a + i * SIDES);
        to_shared(next.b, b + i * SIDES);
        await_tile();
    }
    __syncthreads();
    int stage = 0, last = STAGES - 1;  // that of the last tile fetched
    for (; start < end; start += DEPTH) {
        int left = end - start - (STAGES - 1) * DEPTH;
        if (left > 0) {
            from_global(next.a, p, left, a + last * SIDES);
            from_global(next.b, p, left, b + last * SIDES);
        }
        sums.template multiply<P>(a + stage * SIDES, b + stage * SIDES);
        if (left > 0) {
            to_shared(next.a, a + last * SIDES);
            to_shared(next.b, b + last * SIDES);
        }
        await_tile();
        __syncthreads();
        int free = stage;  // two tiles swap, which takes fewer instructions than counting
        stage = STAGES == 2 ? last : stage == STAGES - 1 ? 0 : stage + 1, last = free;
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
