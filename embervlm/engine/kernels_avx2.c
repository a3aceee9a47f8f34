#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#define SET avx2
#define SET_NAME "avx2"
#define USE_AVX2
#include "kernels_body.h"
#else
typedef int nothing_here;
#endif
