// Rung 6: tensor cores, which multiply small matrices in one instruction of a warp.
//
// In rung 4 each multiplication belongs to a thread. Here a warp passes 16 rows of a and 8 columns
// of b, 32 bytes deep, to the cores and gets the sums of all 2048 products (with TF32 1024). Each
// lane holds certain numbers of these matrices in registers (ptx.cuh); `ldmatrix` fetches them from
// shared memory, four registers at a time. Each of the block's four warps has 32 x 32 of the 64 x 64
// results, or of 128 x 32 for few columns: for eight products it fetches 32 rows and 32 columns.
// With TF32, whose numbers are twice as wide, two warps have 64 x 32 of 128 x 32 each: the columns
// are fetched once for 16 products.
//
// The cores read fewer bits than a float32 has. By default half: 11 significant bits, no numbers
// above 65504 or below 6e-8; sm_75 or later. With -DBF16 bfloat16: 8 bits and the range of float32;
// sm_80 or later. With -DTF32: 11 bits and the range of float32; sm_80 or later. Sums are float32,
// but bits are cut off instead of rounded (emulator/machine/tensor_sums.h), so that the error of a
// sum grows with its depth.
//
// Arrays are float32, and rounded between the loads into registers and the stores to shared memory,
// once for each tile. With -DSTORED x has the type that the cores read: norm.cu, which computed it
// for this convolution alone, has rounded it already, so that no bit of a result changes. A
// 3 x 3 window reads every number of x nine times, and the backward reads it again: each read has
// half as many bytes, and x takes half the memory until the backward. From sm_80 on it is copied to
// shared memory past the registers (cp.async), two tiles ahead of the products instead of one. So
// is everything with TF32, which has as many bits in memory as float32, and is rounded as it is
// read from shared memory.
//
// Nothing is scaled here. Small gradients lose bits in half below 6e-5 and are zero below 3e-8:
// training/loss_scale.py multiplies the loss by a power of two and divides the gradients by it.
#include "tensor.cuh"

#include "conv2d.cuh"
