#include "operators.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "matmul.h"
#include "rows.h"

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
	OrtTensorTypeAndShapeInfo *info;
	TRY(api->GetTensorTypeAndShape(v, &info));
	OrtStatus *failed = api->GetDimensionsCount(info, n);
	if (!failed) failed = *n <= axes ? api->GetDimensions(info, shape, *n) : api->CreateStatus(ORT_INVALID_ARGUMENT, "too many axes");
	api->ReleaseTensorTypeAndShapeInfo(info);
	return failed;
}

static size_t count(const int64_t *shape, size_t n) {
	size_t all = 1;
	for (size_t i = 0; i < n; i++) all *= shape[i];
	return all;
}

// scratch_of gives memory of size bytes: few, where that is enough.
static void *scratch_of(size_t size, void *few, size_t there) {
	return size <= there ? few : aligned_alloc(64, (size + 63) & ~(size_t)63);
}

// --- MatMulNBits ---------------------------------------------------------------------------------------------------------

#define PRODUCT "MatMulNBits"

typedef struct {
	const OrtApi *api;
	matrix m;
} product;

static OrtStatus *create_product(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	(void)op;
	int64_t k, n, block;
	TRY(api->KernelInfoGetAttribute_int64(info, "K", &k));
	TRY(api->KernelInfoGetAttribute_int64(info, "N", &n));
	TRY(api->KernelInfoGetAttribute_int64(info, "block_size", &block));
	const int64_t limit = 1 << 24;
	if (k <= 0 || n <= 0 || block < 32 || k > limit || n > limit || block % 32 || k % block)
		return api->CreateStatus(ORT_INVALID_ARGUMENT, PRODUCT ": K, N and block_size do not fit");
	const void *data[2];
	const size_t want[2] = {(size_t)n * k / 2, (size_t)n * (k / block)};
	for (int i = 0; i < 2; i++) {
		int constant = 0;
		const OrtValue *v;
		int64_t shape[axes];
		size_t dims;
		TRY(api->KernelInfoGetConstantInput_tensor(info, 1 + i, &constant, &v));
		if (!constant) return api->CreateStatus(ORT_INVALID_ARGUMENT, PRODUCT ": weights must be constant");
		TRY(shape_of(api, v, shape, &dims));
		if (count(shape, dims) != want[i]) return api->CreateStatus(ORT_INVALID_ARGUMENT, PRODUCT ": weights or scales are of another size");
		TRY(api->GetTensorData(v, &data[i]));
	}
	product *made = malloc(sizeof *made);
	if (!made || !lookout_int4_pack(&made->m, k, n, block, data[0], data[1])) {
		free(made);
		return api->CreateStatus(ORT_FAIL, PRODUCT ": no memory for the weights");
	}
	made->api = api;
	*out = made;
	return NULL;
}

static void destroy_product(void *k) {
	lookout_int4_free(&((product *)k)->m);
	free(k);
}

// multiplication is a run's product, which threads share.
typedef struct {
	const matrix *m;
	const void *scratch;
	size_t rows;
	int panels; // of a part
	float *y;
} multiplication;

static void multiply(void *of, size_t part) {
	const multiplication *j = of;
	int from = (int)part * j->panels, to = from + j->panels;
	lookout_int4_multiply(j->m, j->scratch, j->rows, from, to < j->m->panels ? to : j->m->panels, j->y);
}

static OrtStatus *compute_product(void *of, OrtKernelContext *context) {
	const product *k = of;
	const OrtApi *api = k->api;
	const matrix *m = &k->m;
	const OrtValue *in;
	OrtValue *out;
	int64_t shape[axes];
	size_t n;
	TRY(api->KernelContext_GetInput(context, 0, &in));
	TRY(shape_of(api, in, shape, &n));
	if (n < 1 || shape[n - 1] != m->k) return api->CreateStatus(ORT_INVALID_ARGUMENT, PRODUCT ": the rows are of another length");
	multiplication j = {.m = m, .rows = count(shape, n - 1)};
	shape[n - 1] = m->n;
	const void *x;
	TRY(api->GetTensorData(in, &x));
	TRY(api->KernelContext_GetOutput(context, 0, shape, n, &out));
	TRY(api->GetTensorMutableData(out, (void **)&j.y));
	if (j.rows == 0) return NULL;

	_Alignas(64) char few[16384]; // enough for a token
	void *scratch = scratch_of(lookout_int4_scratch(m, j.rows), few, sizeof few);
	if (!scratch) return api->CreateStatus(ORT_FAIL, PRODUCT ": no memory for the rows");
	lookout_int4_quantise(m, x, j.rows, scratch);
	j.scratch = scratch;
	// A part takes some three microseconds: less than two of them are sooner done than shared.
	const size_t enough = 64 * 1024;
	size_t of_panel = j.rows * m->k * 16;
	j.panels = of_panel < enough ? (int)((enough + of_panel - 1) / of_panel) : 1;
	size_t parts = (m->panels + j.panels - 1) / j.panels;
	OrtStatus *failed = NULL;
	if (parts == 1)
		multiply(&j, 0);
	else
		failed = api->KernelContext_ParallelFor(context, multiply, parts, parts, &j);
	if (scratch != few) free(scratch);
	return failed;
}

// --- GroupQueryAttention -------------------------------------------------------------------------------------------------

#define ATTENTION "GroupQueryAttention"

typedef struct {
	const OrtApi *api;
	int heads, shared;
	float scale; // 0: the root of the width
} attending;

static OrtStatus *create_attention(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	(void)op;
	int64_t heads, shared;
	float scale;
	TRY(api->KernelInfoGetAttribute_int64(info, "num_heads", &heads));
	TRY(api->KernelInfoGetAttribute_int64(info, "kv_num_heads", &shared));
	OrtStatus *without = api->KernelInfoGetAttribute_float(info, "scale", &scale);
	if (without) {
		api->ReleaseStatus(without);
		scale = 0;
	}
	if (heads <= 0 || shared <= 0 || heads > 1 << 16 || heads % shared) return api->CreateStatus(ORT_INVALID_ARGUMENT, ATTENTION ": num_heads and kv_num_heads do not fit");
	attending *made = malloc(sizeof *made);
	if (!made) return api->CreateStatus(ORT_FAIL, ATTENTION ": no memory");
	*made = (attending){.api = api, .heads = heads, .shared = shared, .scale = scale};
	*out = made;
	return NULL;
}

static void enter(void *a, size_t row) { lookout_attention_enter(a, (int)row); }
static void attend(void *a, size_t piece) { lookout_attention_attend(a, (int)piece); }
static void merge(void *a, size_t row) { lookout_attention_merge(a, (int)row); }

// each calls f for 0..n, on the session's threads where many says so.
static OrtStatus *each(const OrtApi *api, OrtKernelContext *context, void (*f)(void *, size_t), size_t n, int many, void *of) {
	if (many && n > 1) return api->KernelContext_ParallelFor(context, f, n, n < 64 ? n : 64, of);
	for (size_t i = 0; i < n; i++) f(of, i);
	return NULL;
}

static OrtStatus *compute_attention(void *of, OrtKernelContext *context) {
	const attending *k = of;
	const OrtApi *api = k->api;
	enum { qkv, keys = 3, values, used, longest, cos, sin, inputs };
	const void *data[inputs];
	int64_t shape[inputs][axes];
	size_t n[inputs];
	for (int i = 0; i < inputs; i++) {
		if (i > qkv && i < keys) continue;
		const OrtValue *v;
		TRY(api->KernelContext_GetInput(context, i, &v));
		if (!v) return api->CreateStatus(ORT_INVALID_ARGUMENT, ATTENTION ": an input is missing");
		TRY(shape_of(api, v, shape[i], &n[i]));
		TRY(api->GetTensorData(v, &data[i]));
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
	float *out[3];
	for (int i = 0; i < 3; i++) {
		TRY(api->KernelContext_GetOutput(context, i, i ? cache_shape : out_shape, i ? 4 : 3, &v[i]));
		TRY(api->GetTensorMutableData(v[i], (void **)&out[i]));
	}
	for (int64_t b = 0; b < batch; b++) {
		// The library counts places without the last one. Rows of a first prompt start at 0, whatever of them is padding.
		int64_t end = (int64_t)((const int32_t *)data[used])[b] + 1, past = rows == total ? 0 : end - rows;
		if (past < 0 || past + rows > room || past > had || past + rows > shape[cos][0]) return api->CreateStatus(ORT_INVALID_ARGUMENT, ATTENTION ": more rows than there is room");
		if (rows == 0) continue;
		const size_t of_rows = (size_t)rows * shape[qkv][2], of_cache = (size_t)k->shared * room * width, of_past = (size_t)k->shared * had * width;
		attention a = {
			.rows = rows, .heads = k->heads, .shared = k->shared, .width = width, .past = past, .room = room, .turned = shape[cos][1],
			.scale = k->scale ? k->scale : 1 / sqrtf(width),
			.qkv = (const float *)data[qkv] + b * of_rows, .cos = data[cos], .sin = data[sin],
			.keys = out[1] + b * of_cache, .values = out[2] + b * of_cache, .out = out[0] + b * rows * k->heads * width,
		};
		for (int i = 0; i < 2; i++) { // what was is there already where past and present are one
			const float *from = (const float *)data[keys + i] + b * of_past;
			float *to = i ? a.values : a.keys;
			for (int h = 0; from != to && h < k->shared; h++) memcpy(to + h * room * width, from + h * had * width, past * width * sizeof *to);
		}
		_Alignas(64) float few[8192]; // enough for a token of the models that one machine runs
		float *scratch = scratch_of(lookout_attention_plan(&a) * sizeof *few, few, sizeof few);
		if (!scratch) return api->CreateStatus(ORT_FAIL, ATTENTION ": no memory for the rows");
		a.queries = scratch;
		a.partial = scratch + (size_t)rows * k->heads * width;
		OrtStatus *failed = each(api, context, enter, rows, rows > 8, &a);
		if (!failed) failed = each(api, context, attend, (size_t)a.tiles * a.splits * a.shared, 1, &a);
		if (!failed) failed = each(api, context, merge, rows, rows > 8, &a);
		if (scratch != few) free(scratch);
		if (failed) return failed;
	}
	return NULL;
}

// --- SkipSimplifiedLayerNormalization and QuickGelu --------------------------------------------------------------------------

#define NORM "SkipSimplifiedLayerNormalization"

typedef struct {
	const OrtApi *api;
	float number; // the attribute: epsilon, or alpha
} elementwise;

static OrtStatus *create_elementwise(const OrtApi *api, const OrtKernelInfo *info, const char *attribute, void **out) {
	elementwise *made = malloc(sizeof *made);
	if (!made) return api->CreateStatus(ORT_FAIL, "no memory");
	made->api = api;
	OrtStatus *failed = api->KernelInfoGetAttribute_float(info, attribute, &made->number);
	if (failed)
		free(made);
	else
		*out = made;
	return failed;
}

static OrtStatus *create_norm(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	(void)op;
	return create_elementwise(api, info, "epsilon", out);
}

static OrtStatus *create_gelu(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
	(void)op;
	return create_elementwise(api, info, "alpha", out);
}

// numbers are the rows of a run, which threads share.
typedef struct {
	float number;
	const float *x, *skip, *gamma;
	float *y, *sum;
	size_t width;
} numbers;

static void norm(void *of, size_t row) {
	const numbers *r = of;
	size_t at = row * r->width;
	lookout_norm(r->x + at, r->skip + at, r->gamma, r->number, r->width, r->sum ? r->sum + at : NULL, r->y + at);
}

static void gelu(void *of, size_t row) {
	const numbers *r = of;
	lookout_gelu(r->x + row * r->width, r->number, r->width, r->y + row * r->width);
}

static OrtStatus *compute_norm(void *of, OrtKernelContext *context) {
	const elementwise *k = of;
	const OrtApi *api = k->api;
	const void *data[3];
	int64_t shape[3][axes];
	size_t n[3];
	for (int i = 0; i < 3; i++) {
		const OrtValue *v;
		TRY(api->KernelContext_GetInput(context, i, &v));
		TRY(shape_of(api, v, shape[i], &n[i]));
		TRY(api->GetTensorData(v, &data[i]));
	}
	size_t all = count(shape[0], n[0]), width = n[0] ? shape[0][n[0] - 1] : 0;
	if (width == 0 || count(shape[1], n[1]) != all || count(shape[2], n[2]) != width)
		return api->CreateStatus(ORT_INVALID_ARGUMENT, NORM ": the inputs' sizes do not fit");
	numbers r = {.number = k->number, .x = data[0], .skip = data[1], .gamma = data[2], .width = width};
	OrtValue *out;
	TRY(api->KernelContext_GetOutput(context, 0, shape[0], n[0], &out));
	TRY(api->GetTensorMutableData(out, (void **)&r.y));
	size_t outputs;
	TRY(api->KernelContext_GetOutputCount(context, &outputs));
	if (outputs > 3) {
		TRY(api->KernelContext_GetOutput(context, 3, shape[0], n[0], &out));
		if (out) TRY(api->GetTensorMutableData(out, (void **)&r.sum));
	}
	return each(api, context, norm, all / width, all > 1 << 14, &r);
}

static OrtStatus *compute_gelu(void *of, OrtKernelContext *context) {
	const elementwise *k = of;
	const OrtApi *api = k->api;
	const OrtValue *in;
	OrtValue *out;
	int64_t shape[axes];
	size_t n;
	const void *x;
	TRY(api->KernelContext_GetInput(context, 0, &in));
	TRY(shape_of(api, in, shape, &n));
	TRY(api->GetTensorData(in, &x));
	numbers r = {.number = k->number, .x = x, .width = n ? shape[n - 1] : 1};
	TRY(api->KernelContext_GetOutput(context, 0, shape, n, &out));
	TRY(api->GetTensorMutableData(out, (void **)&r.y));
	size_t all = count(shape, n);
	return all ? each(api, context, gelu, all / r.width, all > 1 << 14, &r) : NULL;
}

// --- what the library asks of an operator ----------------------------------------------------------------------------------

static const char *product_name(const OrtCustomOp *op) { return (void)op, PRODUCT; }
static size_t product_inputs(const OrtCustomOp *op) { return (void)op, 3; }
static ONNXTensorElementDataType product_input(const OrtCustomOp *op, size_t i) {
	return (void)op, i == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
static OrtCustomOpInputOutputCharacteristic required(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, INPUT_OUTPUT_REQUIRED; }

static const char *attention_name(const OrtCustomOp *op) { return (void)op, ATTENTION; }
static size_t attention_inputs(const OrtCustomOp *op) { return (void)op, 11; }
static size_t attention_outputs(const OrtCustomOp *op) { return (void)op, 3; }
static ONNXTensorElementDataType attention_input(const OrtCustomOp *op, size_t i) {
	return (void)op, i == 5 || i == 6 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : i == 9 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}
static OrtCustomOpInputOutputCharacteristic packed(const OrtCustomOp *op, size_t i) { return (void)op, i == 1 || i == 2 || i > 8 ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED; }

static const char *norm_name(const OrtCustomOp *op) { return (void)op, NORM; }
static size_t norm_inputs(const OrtCustomOp *op) { return (void)op, 3; }
static size_t norm_outputs(const OrtCustomOp *op) { return (void)op, 4; }
static OrtCustomOpInputOutputCharacteristic first(const OrtCustomOp *op, size_t i) { return (void)op, i ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED; }

static const char *gelu_name(const OrtCustomOp *op) { return (void)op, "QuickGelu"; }
static size_t one(const OrtCustomOp *op) { return (void)op, 1; }
static ONNXTensorElementDataType floats(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }

static const char *provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static OrtMemType memory(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, OrtMemTypeDefault; }
static int version(const OrtCustomOp *op) { return (void)op, 1; }

#define SAME \
	.version = API_VERSION, .GetExecutionProviderType = provider, .GetInputMemoryType = memory, .GetOutputType = floats, .GetStartVersion = version, .GetEndVersion = version

static OrtCustomOp operators[] = {
	{SAME, .GetName = product_name, .GetInputTypeCount = product_inputs, .GetInputType = product_input, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_product, .KernelComputeV2 = compute_product, .KernelDestroy = destroy_product},
	{SAME, .GetName = attention_name, .GetInputTypeCount = attention_inputs, .GetInputType = attention_input, .GetInputCharacteristic = packed,
		.GetOutputTypeCount = attention_outputs, .GetOutputCharacteristic = required, .CreateKernelV2 = create_attention, .KernelComputeV2 = compute_attention, .KernelDestroy = free},
	{SAME, .GetName = norm_name, .GetInputTypeCount = norm_inputs, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = norm_outputs, .GetOutputCharacteristic = first, .CreateKernelV2 = create_norm, .KernelComputeV2 = compute_norm, .KernelDestroy = free},
	{SAME, .GetName = gelu_name, .GetInputTypeCount = one, .GetInputType = floats, .GetInputCharacteristic = required,
		.GetOutputTypeCount = one, .GetOutputCharacteristic = required, .CreateKernelV2 = create_gelu, .KernelComputeV2 = compute_gelu, .KernelDestroy = free},
};

static const OrtApi *api;
static OrtCustomOpDomain *domain; // lives as long as the library

// why keeps what failed: a status goes with the library's memory.
static const char *why(OrtStatus *s) {
	static char text[200];
	size_t i = 0;
	for (const char *m = api->GetErrorMessage(s); i + 1 < sizeof text && m[i]; i++) text[i] = m[i];
	text[i] = 0;
	api->ReleaseStatus(s);
	return text;
}

const char *lookout_kernels_register(const char *library, void *options) {
	if (!domain) {
		void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
		if (!handle) return "the library is not loaded";
		const OrtApiBase *(*base)(void) = (const OrtApiBase *(*)(void))dlsym(handle, "OrtGetApiBase");
		dlclose(handle); // it stays: who loaded it holds it
		if (!base || !(api = base()->GetApi(API_VERSION))) return "the library is of another version";
		OrtStatus *failed;
		OrtCustomOpDomain *made;
		if ((failed = api->CreateCustomOpDomain(DOMAIN, &made))) return why(failed);
		for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
			if ((failed = api->CustomOpDomain_Add(made, &operators[i]))) {
				api->ReleaseCustomOpDomain(made);
				return why(failed);
			}
		domain = made;
	}
	OrtStatus *failed = api->AddCustomOpDomain(options, domain);
	return failed ? why(failed) : NULL;
}
