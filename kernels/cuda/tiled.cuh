// Compute a matrix product by the including file's Tile, which has TILE x COLUMNS results in
// THREADS threads and uses MEMORY floats of shared memory.
// grid (ceil(rows / TILE), ceil(columns / COLUMNS)), block (THREADS)
template <class P> __device__ void product(const P& p) {
    __shared__ __align__(32) float memory[MEMORY];
    int row0 = blockIdx.x * TILE, column0 = blockIdx.y * COLUMNS;
    Tile tile;
    tile.clear();
    tile.add_up(p, memory, row0, column0, 0, p.depth());
    tile.store(p, memory, row0, column0);
}
