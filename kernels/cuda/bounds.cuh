// The bounds of __launch_bounds__ that an including file does not define, from its THREADS.
#ifndef BOUNDS
#define BOUNDS THREADS
#endif
#ifndef BOUNDS_X
#define BOUNDS_X BOUNDS  // of the kernels that compute gx
#endif
