// Package kernels has operators of ONNX Runtime that read tokens and pictures in
// less time than the library's own do, on CPUs with AVX-512 VNNI, also with
// AMX, or with AVX2.
//
// MatMulNBits multiplies rows by weights of 4 or 8 bits. The library unpacks a
// weight for one column at a time and adds up across registers; here a register
// holds a number of each of 16 columns (AVX2: 8), the weights lie in memory in the
// order in which they are read, and nothing is added up across. Rows are made into
// 8 bits in the blocks of the weights, as the library does where its operator's
// accuracy_level is 4.
//
// GroupQueryAttention goes through keys and values once, where they lie, with the
// softmax of what it has seen so far (Milakov and Gimelshein, arXiv:1805.02867),
// for all heads that share them; a long cache is shared among threads by places,
// where the library shares out heads, of which small models have few.
// GroupQueryHalfCache is the same with keys and values in 16 bits.
//
// GatedMatMulNBits is what a prepared graph makes of two products of the same rows, one
// of which opens a gate for the other (SwiGLU, Shazeer, arXiv:2002.05202): their columns lie in
// turn, so that what they give is multiplied while it is at hand.
//
// A token is some hundred short products, one after another: where a graph has none but
// ours they are shared out by a team of threads of this package's own, each with a
// part that is its own first and others take from when they have none left (compare Blumofe and
// Leiserson, "Scheduling multithreaded computations by work stealing", JACM 1999).
//
// For encoders in 8 bits, DynamicQuantizeMatMul and MatMulIntegerToFloat multiply
// twelve rows by 32 columns at a time (AMX: 32 by 32; AVX2: six by 16); the former
// gives each row a scale of its own. AVX2 cannot add up products of 8 bits: it cuts off what does not
// fit into 16, and so do the library's operators there. Here rows have 16 bits then,
// and the sums are right.
// QuantizeMatMul is what a prepared graph makes of QuantizeLinear, MatMulIntegerToFloat
// and Add. MultiHeadAttention computes in 16 bits what the library does in float32: a
// CPU of this kind multiplies twice as many of them, and they are finer than bfloat16 or
// the 8 bits of the products around it (compare SageAttention, arXiv:2410.02367,
// which needs but 8 for scores).
//
// RingAttention is no operator of the library's: attention of each patch place to what
// it was in the frames before, which graphs spell out beside it, as a function. Keys and
// values are read slot by slot, as they lie.
package kernels

/*
#cgo LDFLAGS: -lm -ldl -lpthread

#include <stdlib.h>

#include "choose.h"
#include "operators.h"
#include "team.h"
*/
import "C"

import (
	"errors"
	"unsafe"
)

// Domain is that of the operators. It is as long as com.microsoft, that of the
// library's, whose names they have.
const Domain = "lookout.video"

// Supported tells whether this CPU has the instructions.
func Supported() bool { return Instructions() != "" }

// Instructions names those that the operators use, "" where there are none.
func Instructions() string {
	if k := C.lookout_kernels(); k != nil {
		return C.GoString(k.instructions)
	}
	return ""
}

// Narrow makes sessions from now on do without as many of the widest kinds of
// instructions that this CPU has: there are three, and the narrowest is always left. It
// is for tests of what other machines run.
func Narrow(by int) { C.lookout_kernels_narrow(C.int(by)) }

// Width tells whether attention is to be had for heads this wide.
func Width(n int) bool { return C.lookout_attention_width(C.int64_t(n)) != 0 }

// API is the OrtApi of the ONNX Runtime that was loaded from library, nil where it is of
// another version.
func API(library string) unsafe.Pointer {
	path := C.CString(library)
	defer C.free(unsafe.Pointer(path))
	return unsafe.Pointer(C.lookout_api(path))
}

// Register makes the operators known to the sessions made with options, an
// OrtSessionOptions. ONNX Runtime must have been loaded from library. With team,
// their threads are those of StartTeam in place of the session's. Calls must not
// overlap.
func Register(library string, options unsafe.Pointer, team bool) error {
	path := C.CString(library)
	defer C.free(unsafe.Pointer(path))
	of := C.int(0)
	if team {
		of = 1
	}
	if failed := C.lookout_kernels_register(path, options, of); failed != nil {
		return errors.New(C.GoString(failed))
	}
	return nil
}

// StartTeam starts the process's team, of n threads with the one that runs, unless
// it is there. It tells whether it is. Calls must not overlap.
func StartTeam(n int) bool { return C.lookout_team_start(C.int(n)) != 0 }

// StopTeam ends the team's threads. No session of it may be running.
func StopTeam() { C.lookout_team_stop() }
