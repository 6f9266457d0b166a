#include "operators.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "choose.h"
#include "team.h"

// The nodes keep the library's names for the operators and have a domain of our own.
#define DOMAIN "lookout.video"
#define API_VERSION 24

#define TRY(call) \
	do { \
		OrtStatus *failed_ = (call); \
		if (failed_) return failed_; \
	} while (0)

enum { axes = 8 };

// shape_of gives the length of each axis of a tensor, at most axes.
static OrtStatus *shape_of(const OrtApi *api, const OrtValue *v, int64_t *shape, size_t *n) {
	ONNXTensorElementDataType type;
	const int64_t *there;
	TRY(api->GetTensorElementTypeAndShapeDataReference(v, &type, &there, n)); // allocates nothing
	if (*n > axes) return api->CreateStatus(ORT_INVALID_ARGUMENT, "too many axes");
	for (size_t i = 0; i < *n; i++) shape[i] = there[i];
	return NULL;
}

// input_of gives the data of an input, and the length of each of its axes.
static OrtStatus *input_of(const OrtApi *api, OrtKernelContext *context, size_t i, const void **data, int64_t *shape, size_t *n) {
	const OrtValue *v;
	TRY(api->KernelContext_GetInput(context, i, &v));
	if (!v) return api->CreateStatus(ORT_INVALID_ARGUMENT, "an input is missing");
	TRY(shape_of(api, v, shape, n));
	return api->GetTensorData(v, data);
}

static size_t count(const int64_t *shape, size_t n) {
	size_t all = 1;
	for (size_t i = 0; i < n; i++) all *= shape[i];
	return all;
}

static int has_team(const OrtCustomOp *op);

// host is what a kernel has of its session while it runs.
typedef struct {
	const OrtApi *api;
	int team;              // its threads are the team's
	OrtAllocator *session; // keeps memory for the next run
} host;

static OrtStatus *host_of(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, host *h) {
	*h = (host){.api = api, .team = has_team(op)};
	return api->KernelInfoGetAllocator(info, OrtMemTypeDefault, &h->session);
}

// scratch_of gives memory of size bytes, at a multiple of 64: few, where that is enough.
static void *scratch_of(const host *h, size_t size, void *few, size_t there) {
	return size <= there ? few : h->session->Alloc(h->session, size);
}

static void host_back(const host *h) { h->api->ReleaseAllocator(h->session); }

static void scratch_back(const host *h, void *p, void *few) {
	if (p != few) h->session->Free(h->session, p);
}

// destroy frees a kernel that begins with its host and has nothing else to free.
static void destroy(void *k) {
	host_back(k);
	free(k);
}

// each calls f for 0..n, on the session's threads where many says so.
static OrtStatus *each(const host *h, OrtKernelContext *context, void (*f)(void *, size_t), size_t n, int many, void *of) {
	if (many && n > 1 && !h->team) return h->api->KernelContext_ParallelFor(context, f, n, n < 64 ? n : 64, of);
	if (many)
		lookout_team_share(f, n, of);
	else
		for (size_t i = 0; i < n; i++) f(of, i);
	return NULL;
}

// --- MatMulNBits ---------------------------------------------------------------------------------------------------------

#define PRODUCT "MatMulNBits"

#define GATED "GatedMatMulNBits" // the same twice of the same rows: gate / (1 + e^(-alpha gate)) times the other

enum { together = 16 }; // columns of a gated product's one half that come before as many of the other

typedef struct {
	host from;
	const blocks_kernels *by;
	const rows_kernels *gate; // NULL: not gated
	float alpha;
	matrix m;
} product;

// weave puts rows of two halves, n of each, size bytes long, behind each other in turn: `together` of each.
static void weave(const void *const half[2], int64_t n, size_t size, char *to) {
	for (int64_t i = 0; i < n; i += together)
		for (int h = 0; h < 2; h++, to += together * size) memcpy(to, (const char *)half[h] + i * size, together * size);
}

// create_products packs the weights of one product, or of the two halves of a gated one.
static OrtStatus *create_products(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, int halves, void **out) {
	int64_t bits, k, n, block;
	float alpha = 0;
	TRY(api->KernelInfoGetAttribute_int64(info, "bits", &bits));
	TRY(api->KernelInfoGetAttribute_int64(info, "K", &k));
	TRY(api->KernelInfoGetAttribute_int64(info, "N", &n));
	TRY(api->KernelInfoGetAttribute_int64(info, "block_size", &block));
	if (halves == 2) TRY(api->KernelInfoGetAttribute_float(info, "alpha", &alpha));
	const int64_t limit = 1 << 24;
	if ((bits != 4 && bits != 8) || k <= 0 || n <= 0 || block < 32 || k > limit || n > limit || block % 32 || k % block || (halves == 2 && n % together))
		return api->CreateStatus(ORT_INVALID_ARGUMENT, PRODUCT ": bits, K, N and block_size do not fit");
	const void *data[2][2]; // weights and scales, of each half
	const size_t row[2] = {(size_t)k * bits / 8, (size_t)(k / block)}, number[2] = {1, sizeof(float)};
	for (int i = 0; i < 2 * halves; i++) {
		int constant = 0;
		const OrtValue *v;
		int64_t shape[axes];
		size_t dims;
		TRY(api->KernelInfoGetConstantInput_tensor(info, 1 + i, &constant, &v));
		if (!constant) return api->CreateStatus(ORT_INVALID_ARGUMENT, PRODUCT ": weights must be constant");
		TRY(shape_of(api, v, shape, &dims));
		if (count(shape, dims) != n * row[i % 2]) return api->CreateStatus(ORT_INVALID_ARGUMENT, PRODUCT ": weights or scales are of another size");
		TRY(api->GetTensorData(v, &data[i % 2][i / 2]));
	}
	host from;
	TRY(host_of(op, api, info, &from));
	char *woven[2] = {NULL, NULL};
	int there = 1;
	for (int i = 0; halves == 2 && i < 2; i++) {
		if ((woven[i] = malloc(2 * n * row[i] * number[i])))
			weave(data[i], n, row[i] * number[i], woven[i]);
		else
			there = 0;
	}
	product *made = malloc(sizeof *made);
	const blocks_kernels *by = lookout_kernels()->blocks;
	there = there && made && by->pack(&made->m, bits, k, halves * n, block, halves == 2 ? (const void *)woven[0] : data[0][0], halves == 2 ? (const void *)woven[1] : data[1][0]);
	for (int i = 0; i < 2; i++) free(woven[i]);
	if (!there) {
		host_back(&from);
		free(made);
		return api->CreateStatus(ORT_FAIL, PRODUCT ": no memory for the weights");
	}
	made->from = from;
	made->by = by;
	made->gate = halves == 2 ? lookout_kernels()->rows : NULL;
	made->alpha = alpha;
	*out = made;
	return NULL;
}

static OrtStatus *create_product(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_products(op, api, info, 1, out);
}

static OrtStatus *create_gated(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_products(op, api, info, 2, out);
}

static void destroy_product(void *k) {
	product *p = k;
	host_back(&p->from);
	p->by->free(&p->m);
	free(p);
}

// multiplication is a run's product, which threads share.
typedef struct {
	const product *of;
	const void *scratch;
	size_t rows;
	int panels; // of a part
	float *both; // of a gated product: its halves
	float *y;
} multiplication;

static void multiply(void *of, size_t part) {
	const multiplication *j = of;
	const product *k = j->of;
	const matrix *m = &k->m;
	int from = (int)part * j->panels, to = from + j->panels;
	if (to > m->panels) to = m->panels;
	k->by->multiply(m, j->scratch, j->rows, from, to, k->gate ? j->both : j->y);
	if (!k->gate) return;
	const size_t first = (size_t)from * m->columns, last = (size_t)to * m->columns;
	for (size_t r = 0; r < j->rows; r++)
		for (size_t c = first; c < last; c += 2 * together) {
			const float *x = j->both + r * m->n + c;
			k->gate->gate(x, x + together, k->alpha, together, j->y + (r * m->n + c) / 2);
		}
}

// rows_of gives what a product reads and writes: rows of k numbers in the first input, and the output, in which
// they have n.
static OrtStatus *rows_of(const OrtApi *api, OrtKernelContext *context, int k, int n, const void **x, size_t *rows, float **y) {
	OrtValue *out;
	int64_t shape[axes];
	size_t dims;
	TRY(input_of(api, context, 0, x, shape, &dims));
	if (dims < 1 || shape[dims - 1] != k) return api->CreateStatus(ORT_INVALID_ARGUMENT, "the rows of a product are of another length");
	*rows = count(shape, dims - 1);
	shape[dims - 1] = n;
	TRY(api->KernelContext_GetOutput(context, 0, shape, dims, &out));
	return api->GetTensorMutableData(out, (void **)y);
}

static OrtStatus *compute_product(void *of, OrtKernelContext *context) {
	const product *k = of;
	const OrtApi *api = k->from.api;
	const matrix *m = &k->m;
	multiplication j = {.of = k};
	const void *x;
	TRY(rows_of(api, context, m->k, k->gate ? m->n / 2 : m->n, &x, &j.rows, &j.y));
	if (j.rows == 0) return NULL;

	_Alignas(64) char few[32768]; // enough for a token
	const size_t both = k->gate ? (j.rows * m->n * sizeof *j.both + 63) & ~(size_t)63 : 0;
	char *scratch = scratch_of(&k->from, both + k->by->scratch(m, j.rows), few, sizeof few);
	if (!scratch) return api->CreateStatus(ORT_FAIL, PRODUCT ": no memory for the rows");
	j.both = (float *)scratch;
	j.scratch = scratch + both;
	k->by->quantise(m, x, j.rows, scratch + both);
	// A part takes some microseconds: less than two of them are sooner done than shared.
	const size_t enough = (m->columns < 16 ? 192 : 32) * 1024;
	size_t of_panel = j.rows * m->k * m->columns;
	j.panels = of_panel < enough ? (int)((enough + of_panel - 1) / of_panel) : 1;
	const int whole = k->gate ? 2 * together / m->columns : j.rows > 1 ? 2 : 1; // some kernels take two panels at a time
	j.panels = (j.panels + whole - 1) / whole * whole;
	size_t parts = (m->panels + j.panels - 1) / j.panels;
	OrtStatus *failed = each(&k->from, context, multiply, parts, 1, &j);
	scratch_back(&k->from, scratch, few);
	return failed;
}

// --- DynamicQuantizeMatMul and MatMulIntegerToFloat ------------------------------------------------------------------------

#define PRODUCT8 "DynamicQuantizeMatMul"
#define READY8 "MatMulIntegerToFloat" // of rows that are in 8 bits
#define STATIC8 "QuantizeMatMul"      // the same of rows that QuantizeLinear would make so: the library has no name for it

typedef struct {
	host from;
	const int8_kernels *by;
	matrix8 m;
} eight;

// constant gives the data of an input, how long it is, and whether it is bytes without a sign: NULL where there is none.
static OrtStatus *constant(const OrtApi *api, const OrtKernelInfo *info, size_t i, const void **data, int64_t *shape, size_t *n, int *is_unsigned) {
	size_t inputs;
	int is = 0;
	const OrtValue *v = NULL;
	ONNXTensorElementDataType type;
	const int64_t *there;
	*data = NULL;
	*n = 0;
	*is_unsigned = 0;
	TRY(api->KernelInfo_GetInputCount(info, &inputs));
	if (i >= inputs) return NULL;
	TRY(api->KernelInfoGetConstantInput_tensor(info, i, &is, &v));
	if (!is || !v) return NULL;
	TRY(api->GetTensorElementTypeAndShapeDataReference(v, &type, &there, n));
	*is_unsigned = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
	TRY(shape_of(api, v, shape, n));
	return api->GetTensorData(v, (const void **)data);
}

static OrtStatus *create_eight(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, size_t weights, size_t scales, size_t zeros, size_t bias, void **out) {
	const size_t at[4] = {weights, scales, zeros, bias};
	const void *data[4];
	int64_t shape[4][axes];
	size_t n[4], all[4];
	int is_unsigned[4];
	for (int i = 0; i < 4; i++) {
		TRY(constant(api, info, at[i], &data[i], shape[i], &n[i], &is_unsigned[i]));
		all[i] = count(shape[i], n[i]);
	}
	const int64_t limit = 1 << 20;
	if (!data[0] || !data[1] || n[0] != 2 || shape[0][0] <= 0 || shape[0][1] <= 0 || shape[0][0] > limit || shape[0][1] > limit)
		return api->CreateStatus(ORT_INVALID_ARGUMENT, "weights in 8 bits must be a constant matrix");
	const size_t columns = shape[0][1];
	if ((all[1] != 1 && all[1] != columns) || (data[2] && all[2] != 1 && all[2] != columns) || (data[3] && all[3] != columns))
		return api->CreateStatus(ORT_INVALID_ARGUMENT, "scales, zeros or bias of weights in 8 bits are of another size");
	if (data[2] && is_unsigned[0] != is_unsigned[2]) return api->CreateStatus(ORT_INVALID_ARGUMENT, "weights in 8 bits and their zeros are of different types");
	host from;
	TRY(host_of(op, api, info, &from));
	eight *made = malloc(sizeof *made);
	const int8_kernels *by = lookout_kernels()->int8;
	if (!made || !by->pack(&made->m, shape[0][0], columns, data[0], data[1], all[1], data[2], all[2], is_unsigned[0] ? 128 : 0, data[3])) {
		host_back(&from);
		free(made);
		return api->CreateStatus(ORT_FAIL, "no memory for weights in 8 bits");
	}
	made->from = from;
	made->by = by;
	*out = made;
	return NULL;
}

static OrtStatus *create_product8(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_eight(op, api, info, 1, 2, 3, 4, out);
}

static OrtStatus *create_ready8(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_eight(op, api, info, 1, 3, 5, 6, out);
}

static void destroy_eight(void *k) {
	eight *e = k;
	host_back(&e->from);
	e->by->free(&e->m);
	free(e);
}

// eighths are a run's product, which threads share.
typedef struct {
	const int8_kernels *by;
	product8 p;
} eighths;

static void enter8(void *of, size_t tile) {
	const eighths *j = of;
	j->by->enter(&j->p, tile);
}

static void multiply8(void *of, size_t part) {
	const eighths *j = of;
	j->by->multiply(&j->p, part);
}

// compute_eight multiplies the rows of the first input, which are in 8 bits or are made so: with this scale and zero for all, or
// each with its own.
static OrtStatus *compute_eight(const eight *k, OrtKernelContext *context, int in_bytes, const float *scale, const uint8_t *zero) {
	const OrtApi *api = k->from.api;
	eighths j = {.by = k->by, .p = {.m = &k->m}};
	product8 *p = &j.p;
	const void *x;
	TRY(rows_of(api, context, k->m.k, k->m.n, &x, &p->rows, &p->y));
	if (in_bytes)
		p->q = x;
	else
		p->x = x;
	p->scale = scale ? *scale : 0;
	p->zero = zero ? *zero : 128;
	if (p->rows == 0) return NULL;
	p->scratch = scratch_of(&k->from, j.by->plan(p), NULL, 0);
	if (!p->scratch) return api->CreateStatus(ORT_FAIL, "no memory for rows in 8 bits");
	OrtStatus *failed = each(&k->from, context, enter8, p->tiles, 1, &j);
	if (!failed) failed = each(&k->from, context, multiply8, p->groups * p->shares, 1, &j);
	scratch_back(&k->from, p->scratch, NULL);
	return failed;
}

static OrtStatus *compute_product8(void *of, OrtKernelContext *context) { return compute_eight(of, context, 0, NULL, NULL); }

static OrtStatus *compute_scaled(const eight *k, OrtKernelContext *context, int in_bytes) {
	const OrtApi *api = k->from.api;
	const void *data[2];
	for (int i = 0; i < 2; i++) { // a scale and a zero for all rows
		int64_t shape[axes];
		size_t n;
		TRY(input_of(api, context, i ? 4 : 2, &data[i], shape, &n));
		if (count(shape, n) != 1) return api->CreateStatus(ORT_INVALID_ARGUMENT, READY8 ": the rows must have one scale and one zero");
	}
	return compute_eight(k, context, in_bytes, data[0], data[1]);
}

static OrtStatus *compute_ready8(void *of, OrtKernelContext *context) { return compute_scaled(of, context, 1); }

static OrtStatus *compute_static8(void *of, OrtKernelContext *context) { return compute_scaled(of, context, 0); }

// --- GroupQueryAttention -------------------------------------------------------------------------------------------------

#define ATTENTION "GroupQueryAttention"
#define HALF "GroupQueryHalfCache" // the same with keys and values in 16 bits: half to read, of what is kept the larger part

typedef struct {
	host from;
	const kernels *by;
	int heads, shared;
	float scale; // 0: the root of the width
	int half;    // keys and values are kept in 16 bits
} attending;

// create_heads makes the kernel of an operator whose heads of keys are told by the attribute shared.
static OrtStatus *create_heads(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, const char *shared, void **out) {
	int64_t heads, of_keys;
	float scale;
	TRY(api->KernelInfoGetAttribute_int64(info, "num_heads", &heads));
	TRY(api->KernelInfoGetAttribute_int64(info, shared, &of_keys));
	OrtStatus *without = api->KernelInfoGetAttribute_float(info, "scale", &scale);
	if (without) {
		api->ReleaseStatus(without);
		scale = 0;
	}
	if (heads <= 0 || of_keys <= 0 || heads > 1 << 16 || heads % of_keys) return api->CreateStatus(ORT_INVALID_ARGUMENT, "the numbers of heads do not fit");
	host from;
	TRY(host_of(op, api, info, &from));
	attending *made = malloc(sizeof *made);
	if (!made) {
		host_back(&from);
		return api->CreateStatus(ORT_FAIL, "no memory");
	}
	*made = (attending){.from = from, .by = lookout_kernels(), .heads = heads, .shared = of_keys, .scale = scale};
	*out = made;
	return NULL;
}

static OrtStatus *create_attention(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_heads(op, api, info, "kv_num_heads", out);
}

static OrtStatus *create_half(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	TRY(create_heads(op, api, info, "kv_num_heads", out));
	((attending *)*out)->half = 1;
	return NULL;
}

// attended is a run's attention, which threads share.
typedef struct {
	const attention_kernels *by;
	attention a;
} attended;

static void enter(void *of, size_t row) {
	const attended *j = of;
	j->by->enter(&j->a, (int)row);
}

static void attend(void *of, size_t piece) {
	const attended *j = of;
	j->by->attend(&j->a, (int)piece);
}

static void merge(void *of, size_t row) {
	const attended *j = of;
	j->by->merge(&j->a, (int)row);
}

static OrtStatus *compute_attention(void *of, OrtKernelContext *context) {
	const attending *k = of;
	const OrtApi *api = k->from.api;
	enum { qkv, keys = 3, values, used, longest, cos, sin, inputs };
	const void *data[inputs];
	int64_t shape[inputs][axes];
	size_t n[inputs];
	for (int i = 0; i < inputs; i++) {
		if (i > qkv && i < keys) continue;
		TRY(input_of(api, context, i, &data[i], shape[i], &n[i]));
	}
	if (n[qkv] != 3 || n[keys] != 4 || n[values] != 4 || n[cos] != 2 || memcmp(shape[keys], shape[values], 4 * sizeof(int64_t)) || count(shape[longest], n[longest]) != 1)
		return api->CreateStatus(ORT_INVALID_ARGUMENT, ATTENTION ": the inputs' axes do not fit");
	const int64_t batch = shape[qkv][0], rows = shape[qkv][1], had = shape[keys][2], width = shape[keys][3];
	const int64_t total = *(const int32_t *)data[longest], room = had > total ? had : total;
	if (!lookout_attention_width(width)) return api->CreateStatus(ORT_INVALID_ARGUMENT, ATTENTION ": heads of this width are not to be had");
	if (shape[qkv][2] != (k->heads + 2 * k->shared) * width || shape[keys][0] != batch || shape[keys][1] != k->shared || (int64_t)count(shape[used], n[used]) != batch ||
		2 * shape[cos][1] > width || count(shape[cos], 2) != count(shape[sin], n[sin]))
		return api->CreateStatus(ORT_INVALID_ARGUMENT, ATTENTION ": the inputs' sizes do not fit");
	int64_t out_shape[3] = {batch, rows, k->heads * width}, cache_shape[4] = {batch, k->shared, room, width};
	OrtValue *v[3];
	void *out[3];
	for (int i = 0; i < 3; i++) {
		TRY(api->KernelContext_GetOutput(context, i, i ? cache_shape : out_shape, i ? 4 : 3, &v[i]));
		TRY(api->GetTensorMutableData(v[i], &out[i]));
	}
	const size_t size = k->half ? sizeof(uint16_t) : sizeof(float); // of a number in the cache
	for (int64_t b = 0; b < batch; b++) {
		// The library counts places without the last one. Rows of a first prompt start at 0, whatever of them is padding.
		int64_t end = (int64_t)((const int32_t *)data[used])[b] + 1, past = rows == total ? 0 : end - rows;
		if (past < 0 || past + rows > room || past > had || past + rows > shape[cos][0]) return api->CreateStatus(ORT_INVALID_ARGUMENT, ATTENTION ": more rows than there is room");
		if (rows == 0) continue;
		const size_t of_rows = (size_t)rows * shape[qkv][2], of_cache = k->shared * room * width * size, of_past = k->shared * had * width * size;
		attended j = {.by = k->by->attention, .a = {
			.rows = rows, .heads = k->heads, .shared = k->shared, .width = width, .past = past, .room = room, .turned = shape[cos][1], .half = k->half,
			.scale = k->scale ? k->scale : 1 / sqrtf(width),
			.qkv = (const float *)data[qkv] + b * of_rows, .cos = data[cos], .sin = data[sin],
			.keys = (char *)out[1] + b * of_cache, .values = (char *)out[2] + b * of_cache, .out = (float *)out[0] + b * rows * k->heads * width,
		}};
		attention *a = &j.a;
		for (int i = 0; i < 2; i++) { // what was is there already where past and present are one
			const char *from = (const char *)data[keys + i] + b * of_past;
			char *to = i ? a->values : a->keys;
			for (int h = 0; from != to && h < k->shared; h++) memcpy(to + h * room * width * size, from + h * had * width * size, past * width * size);
		}
		_Alignas(64) float few[8192]; // enough for a token of the models that one machine runs
		float *scratch = scratch_of(&k->from, j.by->plan(a) * sizeof *few, few, sizeof few);
		if (!scratch) return api->CreateStatus(ORT_FAIL, ATTENTION ": no memory for the rows");
		a->queries = scratch;
		a->partial = scratch + (size_t)rows * k->heads * width;
		OrtStatus *failed = each(&k->from, context, enter, rows, rows > 8, &j);
		if (!failed) failed = each(&k->from, context, attend, (size_t)a->tiles * a->splits * a->shared, 1, &j);
		if (!failed) failed = each(&k->from, context, merge, rows, rows > 8, &j);
		scratch_back(&k->from, scratch, few);
		if (failed) return failed;
	}
	return NULL;
}

// --- MultiHeadAttention --------------------------------------------------------------------------------------------------

#define MULTIHEAD "MultiHeadAttention"

static OrtStatus *create_multihead(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_heads(op, api, info, "num_heads", out);
}

// multiheads are a run's attention of all rows, which threads share.
typedef struct {
	const multihead_kernels *by;
	multihead m;
} multiheads;

static void pack(void *of, size_t block) {
	const multiheads *j = of;
	j->by->pack(&j->m, (int)block);
}

static void attend_all(void *of, size_t part) {
	const multiheads *j = of;
	j->by->attend(&j->m, (int)part);
}

static OrtStatus *compute_multihead(void *of, OrtKernelContext *context) {
	const attending *k = of;
	const OrtApi *api = k->from.api;
	enum { query, key, value, inputs };
	const void *data[inputs];
	int64_t shape[inputs][axes];
	for (int i = 0; i < inputs; i++) {
		size_t n;
		TRY(input_of(api, context, i, &data[i], shape[i], &n));
		if (n != 3) return api->CreateStatus(ORT_INVALID_ARGUMENT, MULTIHEAD ": the inputs' axes do not fit");
	}
	const int64_t batch = shape[query][0], rows = shape[query][1], all = shape[query][2], keys = shape[key][1];
	if (memcmp(shape[key], shape[value], 3 * sizeof(int64_t)) || shape[key][0] != batch || shape[key][2] != all || all % k->heads || rows > 1 << 24 || keys > 1 << 24)
		return api->CreateStatus(ORT_INVALID_ARGUMENT, MULTIHEAD ": the inputs' sizes do not fit");
	if (all / k->heads > lookout_multihead_widest) return api->CreateStatus(ORT_INVALID_ARGUMENT, MULTIHEAD ": heads of this width are not to be had");
	OrtValue *v;
	void *y;
	TRY(api->KernelContext_GetOutput(context, 0, shape[query], 3, &v));
	TRY(api->GetTensorMutableData(v, &y));
	if (batch * rows * all == 0) return NULL;
	if (keys == 0) return memset(y, 0, batch * rows * all * sizeof(float)), NULL;
	const int width = (int)(all / k->heads);
	multiheads j = {.by = k->by->multihead, .m = {
		.batch = (int)batch, .heads = k->heads, .width = width, .rows = (int)rows, .keys = (int)keys, .scale = k->scale ? k->scale : 1 / sqrtf(width),
		.q = data[query], .k = data[key], .v = data[value], .out = y,
	}};
	multihead *m = &j.m;
	m->scratch = scratch_of(&k->from, j.by->plan(m), NULL, 0);
	if (!m->scratch) return api->CreateStatus(ORT_FAIL, MULTIHEAD ": no memory for the keys");
	OrtStatus *failed = each(&k->from, context, pack, (size_t)m->batch * m->blocks, 1, &j);
	if (!failed) failed = each(&k->from, context, attend_all, m->parts, 1, &j);
	scratch_back(&k->from, m->scratch, NULL);
	return failed;
}

// --- RingAttention -------------------------------------------------------------------------------------------------------

#define RING "RingAttention"

typedef struct {
	host from;
	const ring_kernels *by;
} ringing;

static OrtStatus *create_ring(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	host from;
	TRY(host_of(op, api, info, &from));
	ringing *made = malloc(sizeof *made);
	if (!made) {
		host_back(&from);
		return api->CreateStatus(ORT_FAIL, "no memory");
	}
	*made = (ringing){from, lookout_kernels()->ring};
	*out = made;
	return NULL;
}

// rings are a run's attention, which threads share.
typedef struct {
	const ring_kernels *by;
	ring r;
} rings;

static void attend_ring(void *of, size_t part) {
	const rings *j = of;
	j->by->attend(&j->r, part);
}

static OrtStatus *compute_ring(void *of, OrtKernelContext *context) {
	const ringing *k = of;
	const OrtApi *api = k->from.api;
	enum { query, key, value, keys, values, age, bias, age_key, inputs };
	const void *data[inputs];
	int64_t shape[inputs][axes];
	static const size_t want[inputs] = {3, 3, 3, 4, 4, 2, 2, 2};
	for (int i = 0; i < inputs; i++) {
		size_t n;
		TRY(input_of(api, context, i, &data[i], shape[i], &n));
		if (n != want[i]) return api->CreateStatus(ORT_INVALID_ARGUMENT, RING ": the inputs' axes do not fit");
	}
	const int64_t batch = shape[query][0], places = shape[query][1], all = shape[query][2], slots = shape[age][1], heads = shape[bias][0];
	const int64_t of_ring[] = {batch, slots, places, all};
	if (memcmp(shape[key], shape[query], 3 * sizeof all) || memcmp(shape[value], shape[query], 3 * sizeof all) || memcmp(shape[keys], of_ring, sizeof of_ring) ||
		memcmp(shape[values], of_ring, sizeof of_ring) || shape[age][0] != batch || slots > lookout_ring_longest || heads < 1 || all % heads ||
		shape[bias][1] != slots + 1 || shape[age_key][0] != slots + 1 || shape[age_key][1] != all)
		return api->CreateStatus(ORT_INVALID_ARGUMENT, RING ": the inputs' sizes do not fit");
	OrtValue *v;
	void *y;
	TRY(api->KernelContext_GetOutput(context, 0, shape[query], 3, &v));
	TRY(api->GetTensorMutableData(v, &y));
	rings j = {.by = k->by, .r = {
		.places = (int)places, .slots = (int)slots, .heads = (int)heads, .width = (int)(all / heads), .q = data[query], .k = data[key], .v = data[value],
		.keys = data[keys], .values = data[values], .age = data[age], .bias = data[bias], .key = data[age_key], .out = y,
	}};
	if (batch * places * all == 0) return NULL;
	const size_t parts = j.by->plan(&j.r);
	if (!parts) return api->CreateStatus(ORT_INVALID_ARGUMENT, RING ": more heads and slots than are to be had");
	return each(&k->from, context, attend_ring, batch * parts, 1, &j);
}

// --- what goes row by row: norms and gates -----------------------------------------------------------------------------------

#define NORM "SkipSimplifiedLayerNormalization"

typedef struct {
	host from;
	const rows_kernels *by;
	float number; // the attribute: epsilon, or alpha
	float cube;
} elementwise;

// create_elementwise reads the attribute, where there is one.
static OrtStatus *create_elementwise(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, const char *attribute, elementwise of, void **out) {
	if (attribute) TRY(api->KernelInfoGetAttribute_float(info, attribute, &of.number));
	TRY(host_of(op, api, info, &of.from));
	of.by = lookout_kernels()->rows;
	elementwise *made = malloc(sizeof *made);
	if (!made) {
		host_back(&of.from);
		return api->CreateStatus(ORT_FAIL, "no memory");
	}
	*made = of;
	*out = made;
	return NULL;
}

static OrtStatus *create_norm(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_elementwise(op, api, info, "epsilon", (elementwise){0}, out);
}

static OrtStatus *create_gelu(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_elementwise(op, api, info, "alpha", (elementwise){0}, out);
}

// create_fast is GELU by the tangent (Hendrycks and Gimpel, arXiv:1606.08415): 1 + tanh(a) is 2 / (1 + e^-2a).
static OrtStatus *create_fast(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_elementwise(op, api, info, NULL, (elementwise){.number = 2 * 0.7978845608f, .cube = 0.044715f}, out);
}

static OrtStatus *create_normal(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	return create_elementwise(op, api, info, NULL, (elementwise){0}, out);
}

// numbers are the rows of a run, which threads share.
typedef struct {
	const rows_kernels *by;
	float number, cube;
	const float *x, *skip, *gamma, *beta;
	float *y, *sum;
	size_t width;
} numbers;

static void norm(void *of, size_t row) {
	const numbers *r = of;
	size_t at = row * r->width;
	r->by->norm(r->x + at, r->skip + at, r->gamma, r->number, r->width, r->sum ? r->sum + at : NULL, r->y + at);
}

static void layer(void *of, size_t row) {
	const numbers *r = of;
	size_t at = row * r->width;
	r->by->layer(r->x + at, r->gamma, r->beta, r->number, r->width, r->y + at);
}

static void normal(void *of, size_t row) {
	const numbers *r = of;
	size_t at = row * r->width;
	r->by->normal(r->x + at, r->beta, r->width, r->y + at);
}

static void gelu(void *of, size_t row) {
	const numbers *r = of;
	r->by->gelu(r->x + row * r->width, r->number, r->cube, r->width, r->y + row * r->width);
}

static OrtStatus *compute_norm(void *of, OrtKernelContext *context) {
	const elementwise *k = of;
	const OrtApi *api = k->from.api;
	const void *data[3];
	int64_t shape[3][axes];
	size_t n[3];
	for (int i = 0; i < 3; i++) TRY(input_of(api, context, i, &data[i], shape[i], &n[i]));
	size_t all = count(shape[0], n[0]), width = n[0] ? shape[0][n[0] - 1] : 0;
	if (width == 0 || count(shape[1], n[1]) != all || count(shape[2], n[2]) != width)
		return api->CreateStatus(ORT_INVALID_ARGUMENT, NORM ": the inputs' sizes do not fit");
	numbers r = {.by = k->by, .number = k->number, .x = data[0], .skip = data[1], .gamma = data[2], .width = width};
	OrtValue *out;
	TRY(api->KernelContext_GetOutput(context, 0, shape[0], n[0], &out));
	TRY(api->GetTensorMutableData(out, (void **)&r.y));
	size_t outputs;
	TRY(api->KernelContext_GetOutputCount(context, &outputs));
	if (outputs > 3) {
		TRY(api->KernelContext_GetOutput(context, 3, shape[0], n[0], &out));
		if (out) TRY(api->GetTensorMutableData(out, (void **)&r.sum));
	}
	return each(&k->from, context, norm, all / width, all > 1 << 14, &r);
}

// compute_rows calls f for each row of the first input. The second input and the third, as far as there are any, are as
// long as a row.
static OrtStatus *compute_rows(const elementwise *k, OrtKernelContext *context, void (*f)(void *, size_t)) {
	const OrtApi *api = k->from.api;
	const void *data[3] = {0};
	int64_t shape[axes];
	size_t inputs, n = 0, width = 1, all = 1;
	TRY(api->KernelContext_GetInputCount(context, &inputs));
	for (size_t i = 0; i < inputs && i < 3; i++) {
		int64_t other[axes];
		size_t m;
		TRY(input_of(api, context, i, &data[i], i ? other : shape, i ? &m : &n));
		if (i == 0) {
			width = n ? shape[n - 1] : 1;
			all = count(shape, n);
		} else if (count(other, m) != width) {
			return api->CreateStatus(ORT_INVALID_ARGUMENT, "an input is not as long as a row");
		}
	}
	numbers r = {.by = k->by, .number = k->number, .cube = k->cube, .x = data[0], .width = width};
	if (inputs == 3) r.gamma = data[1];
	if (inputs > 1) r.beta = data[inputs - 1];
	OrtValue *out;
	TRY(api->KernelContext_GetOutput(context, 0, shape, n, &out));
	TRY(api->GetTensorMutableData(out, (void **)&r.y));
	return all ? each(&k->from, context, f, all / width, all > 1 << 14, &r) : NULL;
}

static OrtStatus *compute_gelu(void *of, OrtKernelContext *context) { return compute_rows(of, context, gelu); }

static OrtStatus *compute_normal(void *of, OrtKernelContext *context) { return compute_rows(of, context, normal); }

static OrtStatus *compute_layer(void *of, OrtKernelContext *context) { return compute_rows(of, context, layer); }

static const OrtApi *api; // for what is given none

// --- what the library asks of an operator ----------------------------------------------------------------------------------

static const char *product_name(const OrtCustomOp *op) { return (void)op, PRODUCT; }
static size_t three(const OrtCustomOp *op) { return (void)op, 3; }
static ONNXTensorElementDataType product_input(const OrtCustomOp *op, size_t i) {
	return (void)op, i == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
static OrtCustomOpInputOutputCharacteristic required(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, INPUT_OUTPUT_REQUIRED; }

static const char *gated_name(const OrtCustomOp *op) { return (void)op, GATED; }
static size_t five(const OrtCustomOp *op) { return (void)op, 5; }
static ONNXTensorElementDataType gated_input(const OrtCustomOp *op, size_t i) {
	return (void)op, i == 1 || i == 3 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

static const char *product8_name(const OrtCustomOp *op) { return (void)op, PRODUCT8; }
static ONNXTensorElementDataType product8_input(const OrtCustomOp *op, size_t i) {
	return (void)op, i == 1 || i == 3 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
static OrtCustomOpInputOutputCharacteristic behind_scales(const OrtCustomOp *op, size_t i) { return (void)op, i > 2 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED; }

static const char *ready8_name(const OrtCustomOp *op) { return (void)op, READY8; }
static size_t ready8_inputs(const OrtCustomOp *op) { return (void)op, 7; }
static ONNXTensorElementDataType ready8_input(const OrtCustomOp *op, size_t i) {
	(void)op;
	switch (i) {
	case 0: case 4: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
	case 1: case 5: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED; // bytes, with a sign or without
	}
	return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
static OrtCustomOpInputOutputCharacteristic behind_zero(const OrtCustomOp *op, size_t i) { return (void)op, i > 4 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED; }

static const char *static8_name(const OrtCustomOp *op) { return (void)op, STATIC8; }
static ONNXTensorElementDataType static8_input(const OrtCustomOp *op, size_t i) { return i ? ready8_input(op, i) : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }

static const char *attention_name(const OrtCustomOp *op) { return (void)op, ATTENTION; }
static size_t attention_inputs(const OrtCustomOp *op) { return (void)op, 11; }
static size_t attention_outputs(const OrtCustomOp *op) { return (void)op, 3; }
static ONNXTensorElementDataType attention_input(const OrtCustomOp *op, size_t i) {
	return (void)op, i == 5 || i == 6 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : i == 9 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

static const char *half_name(const OrtCustomOp *op) { return (void)op, HALF; }
static ONNXTensorElementDataType half_input(const OrtCustomOp *op, size_t i) { return i == 3 || i == 4 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : attention_input(op, i); }
static ONNXTensorElementDataType half_output(const OrtCustomOp *op, size_t i) { return (void)op, i ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
static OrtCustomOpInputOutputCharacteristic packed(const OrtCustomOp *op, size_t i) { return (void)op, i == 1 || i == 2 || i > 8 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED; }

static const char *multihead_name(const OrtCustomOp *op) { return (void)op, MULTIHEAD; }

static const char *ring_name(const OrtCustomOp *op) { return (void)op, RING; }
static size_t ring_inputs(const OrtCustomOp *op) { return (void)op, 8; }
static ONNXTensorElementDataType ring_input(const OrtCustomOp *op, size_t i) {
	return (void)op, i == 5 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

static const char *norm_name(const OrtCustomOp *op) { return (void)op, NORM; }
static size_t norm_inputs(const OrtCustomOp *op) { return (void)op, 3; }
static size_t norm_outputs(const OrtCustomOp *op) { return (void)op, 4; }
static OrtCustomOpInputOutputCharacteristic first(const OrtCustomOp *op, size_t i) { return (void)op, i ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED; }

static const char *gelu_name(const OrtCustomOp *op) { return (void)op, "QuickGelu"; }
static const char *fast_name(const OrtCustomOp *op) { return (void)op, "FastGelu"; }
static const char *layer_name(const OrtCustomOp *op) { return (void)op, "LayerNormalization"; }
static const char *normal_name(const OrtCustomOp *op) { return (void)op, "Gelu"; }
static const char *biased_name(const OrtCustomOp *op) { return (void)op, "BiasGelu"; }
static size_t two(const OrtCustomOp *op) { return (void)op, 2; }
static size_t one(const OrtCustomOp *op) { return (void)op, 1; }
static ONNXTensorElementDataType floats(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }

static const char *provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static OrtMemType where(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, OrtMemTypeDefault; }
static int version(const OrtCustomOp *op) { return (void)op, 1; }

// like_the_first tells the library, while it prepares a graph, that the output has the shape of the first input.
static OrtStatus *like_the_first(const OrtCustomOp *op, OrtShapeInferContext *context) {
	(void)op;
	OrtTensorTypeAndShapeInfo *info;
	TRY(api->ShapeInferContext_GetInputTypeShape(context, 0, &info));
	return api->ShapeInferContext_SetOutputTypeShape(context, 0, info);
}

#define SAME \
	.version = API_VERSION, .GetExecutionProviderType = provider, .GetInputMemoryType = where, .GetOutputType = floats, .GetStartVersion = version, .GetEndVersion = version

static OrtCustomOp operators[] = {
	{SAME, .GetName = product_name, .GetInputTypeCount = three, .GetInputType = product_input, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_product, .KernelComputeV2 = compute_product, .KernelDestroy = destroy_product},
	{SAME, .GetName = gated_name, .GetInputTypeCount = five, .GetInputType = gated_input, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_gated, .KernelComputeV2 = compute_product, .KernelDestroy = destroy_product},
	{SAME, .GetName = product8_name, .GetInputTypeCount = five, .GetInputType = product8_input, .GetInputCharacteristic = behind_scales,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_product8, .KernelComputeV2 = compute_product8, .KernelDestroy = destroy_eight},
	{SAME, .GetName = ready8_name, .GetInputTypeCount = ready8_inputs, .GetInputType = ready8_input, .GetInputCharacteristic = behind_zero,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_ready8, .KernelComputeV2 = compute_ready8, .KernelDestroy = destroy_eight},
	{SAME, .GetName = static8_name, .GetInputTypeCount = ready8_inputs, .GetInputType = static8_input, .GetInputCharacteristic = behind_zero,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_ready8, .KernelComputeV2 = compute_static8, .KernelDestroy = destroy_eight},
	{SAME, .GetName = attention_name, .GetInputTypeCount = attention_inputs, .GetInputType = attention_input, .GetInputCharacteristic = packed,
		.GetOutputTypeCount = attention_outputs, .GetOutputCharacteristic = required, .CreateKernelV2 = create_attention, .KernelComputeV2 = compute_attention, .KernelDestroy = destroy},
	{SAME, .GetName = half_name, .GetInputTypeCount = attention_inputs, .GetInputType = half_input, .GetInputCharacteristic = packed, .GetOutputType = half_output,
		.GetOutputTypeCount = attention_outputs, .GetOutputCharacteristic = required, .CreateKernelV2 = create_half, .KernelComputeV2 = compute_attention, .KernelDestroy = destroy},
	{SAME, .GetName = multihead_name, .GetInputTypeCount = three, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_multihead, .KernelComputeV2 = compute_multihead, .KernelDestroy = destroy},
	{SAME, .GetName = ring_name, .GetInputTypeCount = ring_inputs, .GetInputType = ring_input, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_ring, .KernelComputeV2 = compute_ring, .KernelDestroy = destroy,
		.InferOutputShapeFn = like_the_first},
	{SAME, .GetName = norm_name, .GetInputTypeCount = norm_inputs, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = norm_outputs, .GetOutputCharacteristic = first, .CreateKernelV2 = create_norm, .KernelComputeV2 = compute_norm, .KernelDestroy = destroy},
	{SAME, .GetName = gelu_name, .GetInputTypeCount = one, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_gelu, .KernelComputeV2 = compute_gelu, .KernelDestroy = destroy},
	{SAME, .GetName = layer_name, .GetInputTypeCount = three, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_norm, .KernelComputeV2 = compute_layer, .KernelDestroy = destroy},
	{SAME, .GetName = normal_name, .GetInputTypeCount = one, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_normal, .KernelComputeV2 = compute_normal, .KernelDestroy = destroy},
	{SAME, .GetName = biased_name, .GetInputTypeCount = two, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_normal, .KernelComputeV2 = compute_normal, .KernelDestroy = destroy},
	{SAME, .GetName = fast_name, .GetInputTypeCount = one, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_fast, .KernelComputeV2 = compute_gelu, .KernelDestroy = destroy},
};

enum { n_operators = sizeof operators / sizeof *operators };

static OrtCustomOp of_team[n_operators]; // the same for sessions whose threads are the team's

static int has_team(const OrtCustomOp *op) { return op >= of_team && op < of_team + n_operators; }

static OrtCustomOpDomain *domains[2]; // without and with a team; they live as long as the library

// why keeps what failed: a status goes with the library's memory.
static const char *why(OrtStatus *s) {
	static char text[200];
	size_t i = 0;
	for (const char *m = api->GetErrorMessage(s); i + 1 < sizeof text && m[i]; i++) text[i] = m[i];
	text[i] = 0;
	api->ReleaseStatus(s);
	return text;
}

const OrtApi *lookout_api(const char *library) {
	void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
	if (!handle) return NULL;
	const OrtApiBase *(*base)(void) = (const OrtApiBase *(*)(void))dlsym(handle, "OrtGetApiBase");
	dlclose(handle); // it stays: who loaded it holds it
	return base ? base()->GetApi(API_VERSION) : NULL;
}

const char *lookout_kernels_register(const char *library, void *options, int team) {
	if (!lookout_kernels()) return "this CPU has not the instructions";
	OrtCustomOpDomain **domain = &domains[team != 0];
	if (!api) {
		if (!(api = lookout_api(library))) return "the library is not loaded, or of another version";
		memcpy(of_team, operators, sizeof operators);
	}
	OrtStatus *failed;
	if (!*domain) {
		OrtCustomOpDomain *made;
		if ((failed = api->CreateCustomOpDomain(DOMAIN, &made))) return why(failed);
		for (size_t i = 0; i < n_operators; i++)
			if ((failed = api->CustomOpDomain_Add(made, team ? &of_team[i] : &operators[i]))) {
				api->ReleaseCustomOpDomain(made);
				return why(failed);
			}
		*domain = made;
	}
	failed = api->AddCustomOpDomain(options, *domain);
	return failed ? why(failed) : NULL;
}
