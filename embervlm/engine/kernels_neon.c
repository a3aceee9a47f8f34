#if defined(__ARM_NEON)
#define SET neon
#define SET_NAME "neon"
#include "kernels_neon.h"

#include "kernels_body.h"
#else
typedef int nothing_here;
#endif
