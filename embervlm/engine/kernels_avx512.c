#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,prefer-vector-width=512")
#define SET avx512
#define SET_NAME "avx512-vnni"
#define USE_VNNI
#include "kernels_body.h"
#else
typedef int nothing_here;
#endif
