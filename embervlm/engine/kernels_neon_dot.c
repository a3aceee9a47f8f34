#if defined(__aarch64__)
#pragma GCC target("arch=armv8.2-a+dotprod")
#define SET neon_dot
#define SET_NAME "neon-dot"
#define USE_DOT
#include "kernels_neon.h"

#include "kernels_body.h"
#else
typedef int nothing_here;
#endif
