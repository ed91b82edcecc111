// What the pictures of a plan share.
#ifndef PLAN_PICTURE_INT_H
#define PLAN_PICTURE_INT_H

#include "plan/cost/picture.h"

enum { PLAN_PICTURE_NAME = 48 };
// "3 gpu-a", or "worker 3" where no machine has a name; cut with an ellipsis.
void plan_picture_name(const struct plan_picture *picture, uint32_t worker, char text[PLAN_PICTURE_NAME]);

#endif
