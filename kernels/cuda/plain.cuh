// Products of matrices that are in memory as they are: problems for the register tile (product.cuh).
#include "digits.cuh"
#include "vector.cuh"

struct Plain {  // matrix product of rows x depth and depth x columns
    typedef float A;
    typedef int Row;
    typedef Number DepthA, DepthB;
    const float *left, *right;
    float* result;
    int rows_, depth_, columns_, vector_;
    static constexpr bool a_along_depth = true, b_along_columns = true;

    __device__ bool vector() const { return vector_; }
    __device__ bool stores_vectors() const { return columns_ % 4 == 0 && aligned(result); }
    __device__ int rows() const { return rows_; }
    __device__ int depth() const { return depth_; }
    __device__ int columns() const { return columns_; }
    __device__ int a_row(int row) const { return row; }
    __device__ Number a_depth(int d) const { return {d}; }
    __device__ Number b_depth(int d) const { return {d}; }
    __device__ Radix a_radix() const { return {}; }
    __device__ Radix b_radix() const { return {}; }
    __device__ Entry<float> a_at(int row, const Number& d) const {
        return {left + (row * depth_ + d.number), row < rows_};
    }
    __device__ Entry<float> b_at(const Number& d, int column) const {
        return {right + (d.number * columns_ + column), column < columns_};
    }
    template <class V> __device__ void store(int row, int column, V values) const {
        *(V*)(result + ((long long)row * columns_ + column)) = values;
    }
};

struct Turned : Plain {  // with the left factor stored as depth x rows
    static constexpr bool a_along_depth = false;

    __device__ Entry<float> a_at(int row, const Number& d) const {
        return {left + (d.number * rows_ + row), row < rows_};
    }
};
