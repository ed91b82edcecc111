// Faults at named points of the protocol (bg_env's `point`), for tests and chaos. What fails is told by the
// environment:
//   BRIGADE_FAULT=NAME:POINT:COUNT:ACTION[,...]   the process NAME raises ACTION (KILL, STOP, TERM) on itself when it
//                                                 passes POINT for the COUNT-th time; HANG: its thread stays there
//   BRIGADE_POINTS=FILE                           every point passed is appended to FILE: "worker1 before-send 3"
// Without them a point costs a test of a pointer. Points are passed by the main thread only.
#ifndef OS_FAULT_H
#define OS_FAULT_H

#include "base/status.h"

// Tells this process its name and reads the two variables. A bad one is refused, with its place.
BG_MUST_USE bg_status os_fault_name(const char *name, struct bg_error *err);

#endif
