#if defined(__ARM_NEON)
#define SET neon
#define SET_NAME "neon"
#define USE_NEON
#include "kernels_body.h"
#else
typedef int nothing_here;
#endif
