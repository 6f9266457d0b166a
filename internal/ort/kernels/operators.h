// See package kernels.
#ifndef LOOKOUT_OPERATORS_H
#define LOOKOUT_OPERATORS_H

#include <onnxruntime_c_api.h>

// lookout_api gives the API of the ONNX Runtime that was loaded from library; NULL where
// it is not loaded, or of another version.
const OrtApi *lookout_api(const char *library);

// lookout_kernels_register makes the operators known to a session with these options
// (an OrtSessionOptions). library is the path by which ONNX Runtime was loaded. With team, their
// threads are the team's in place of the session's.
// It gives NULL, or what is wrong. Calls must not overlap.
const char *lookout_kernels_register(const char *library, void *options, int team);

#endif
