#define SET portable
#define SET_NAME "portable"
#include "kernels_body.h"
