// Numbers that are neighbours in memory and move together. A problem (convolution.cuh) takes a result
// as V: a float, or a Vector of floats at a multiple of its size.
#ifndef VECTOR
#define VECTOR

template <class T, int numbers> struct __align__(numbers * sizeof(T)) Vector {
    static constexpr int length = numbers;
    T at[numbers];
};

template <class V> constexpr int FLOATS = sizeof(V) / sizeof(float);

template <class V> __device__ inline float& one_of(V& numbers, int i) { return ((float*)&numbers)[i]; }

template <class V> __device__ inline void add(V& numbers, const float* from) {
    V more = *(const V*)from;
#pragma unroll
    for (int i = 0; i < FLOATS<V>; i++) one_of(numbers, i) += one_of(more, i);
}

// Whether vectors of four floats can be accessed at each of these addresses that is not null.
template <class... Pointers> __device__ inline bool aligned(Pointers... at) {
    return ((unsigned long long)at | ...) % 16 == 0;
}

// Store those of a problem's results that are within it.
template <class P, class V>
__device__ inline void store_within(const P& p, bool together, int row, int column, V values) {
    if (row >= p.rows() || column >= p.columns()) return;
    if (FLOATS<V> == 1 || together) {
        p.store(row, column, values);
        return;
    }
#pragma unroll
    for (int i = 0; i < FLOATS<V>; i++) {
        if (column + i < p.columns()) p.store(row, column + i, one_of(values, i));
    }
}
#endif
