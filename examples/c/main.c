/* Attention from C: a sliding window, forward and backward, by a bundle of machine code.
 *
 *   sliding_window BUNDLE BATCH HEADS LENGTH WINDOW [INPUT OUTPUT]
 *
 * INPUT has q, k, v and the gradient of the output, bfloat16 [BATCH, HEADS, LENGTH, 128] one after
 * the other; without it they are made here. OUTPUT gets the output and the gradients of q, k and v
 * in the same form, then lse in float32. Times of loading and of the first call are printed.
 */
#include "sliding_window.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DIM = 128, INPUTS = 4, TENSORS = 8 };

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(2);
}

static void check(const char *what, CUresult code) {
    const char *text = NULL;
    if (code == CUDA_SUCCESS) return;
    cuGetErrorString(code, &text);
    fail(what, text != NULL ? text : "unknown error");
}

static void check_call(const char *what, const sliding_window *loaded, int code) {
    if (code == sliding_window_DRIVER && loaded != NULL)
        check(what, sliding_window_driver_error(loaded));
    if (code != sliding_window_OK) fail(what, sliding_window_error_text(code));
}

static double milliseconds(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

/* Values between -1 and 1, the same in every run. */
static void make_inputs(uint16_t *values, size_t count) {
    uint32_t state = 12345;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        const float value = (float)(state >> 8) / 8388608.0f - 1.0f;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        values[i] = (uint16_t)(bits >> 16);
    }
}

static void read_inputs(const char *path, uint16_t *values, size_t count) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail(path, "cannot be read");
    if (fread(values, sizeof *values, count, file) != count) fail(path, "is too short");
    fclose(file);
}

static sliding_window_tensor tensor_at(CUdeviceptr data, const int64_t sizes[3]) {
    const int64_t head = sizes[2] * DIM;
    const sliding_window_tensor tensor = {
        data, {sizes[0], sizes[1], sizes[2], DIM}, {sizes[1] * head, head, DIM, 1}};
    return tensor;
}

static void write_outputs(const char *path, const CUdeviceptr *tensors, size_t bytes,
                          CUdeviceptr lse, size_t lse_bytes) {
    FILE *file = fopen(path, "wb");
    char *host = malloc(bytes > lse_bytes ? bytes : lse_bytes);
    if (file == NULL || host == NULL) fail(path, "cannot be written");
    for (int i = INPUTS; i < TENSORS; i++) {
        check("copy", cuMemcpyDtoH(host, tensors[i], bytes));
        fwrite(host, 1, bytes, file);
    }
    check("copy", cuMemcpyDtoH(host, lse, lse_bytes));
    fwrite(host, 1, lse_bytes, file);
    fclose(file);
    free(host);
}

int main(int count, char **words) {
    if (count != 6 && count != 8)
        fail(words[0], "BUNDLE BATCH HEADS LENGTH WINDOW [INPUT OUTPUT]");
    const int64_t sizes[3] = {atoll(words[2]), atoll(words[3]), atoll(words[4])};
    const size_t rows = (size_t)(sizes[0] * sizes[1] * sizes[2]);
    const size_t bytes = rows * DIM * sizeof(uint16_t);

    CUdevice device;
    CUcontext context;
    check("cuInit", cuInit(0));
    check("cuDeviceGet", cuDeviceGet(&device, 0));
    check("context", cuDevicePrimaryCtxRetain(&context, device));
    check("context", cuCtxSetCurrent(context));

    uint16_t *host = malloc(INPUTS * bytes);
    if (host == NULL) fail("malloc", "no memory");
    if (count == 8)
        read_inputs(words[6], host, INPUTS * bytes / sizeof *host);
    else
        make_inputs(host, INPUTS * bytes / sizeof *host);
    CUdeviceptr tensors[TENSORS], lse, workspace;
    for (int i = 0; i < TENSORS; i++) check("memory", cuMemAlloc(&tensors[i], bytes));
    for (int i = 0; i < INPUTS; i++)
        check("copy", cuMemcpyHtoD(tensors[i], (char *)host + (size_t)i * bytes, bytes));
    check("memory", cuMemAlloc(&lse, rows * sizeof(float)));

    const double begin = milliseconds();
    sliding_window *loaded;
    check_call("load", NULL, sliding_window_load(&loaded, words[1], sliding_window_BF16, DIM, DIM));
    const double ready = milliseconds();
    sliding_window_call call;
    sliding_window_defaults(loaded, &call);
    sliding_window_tensor *places[TENSORS] = {&call.query, &call.key,     &call.value, &call.d_out,
                                              &call.out,   &call.d_query, &call.d_key, &call.d_value};
    for (int i = 0; i < TENSORS; i++) *places[i] = tensor_at(tensors[i], sizes);
    call.lse = lse;
    call.parameters.window = atoi(words[5]);
    /* Of the pass that needs more. */
    const size_t space = sliding_window_workspace_size(loaded, &call, 1);
    check("memory", cuMemAlloc(&workspace, space));
    call.workspace = workspace;
    check_call("forward", loaded, sliding_window_forward(loaded, &call, NULL));
    check("forward", cuCtxSynchronize());
    const double done = milliseconds();

    check_call("backward", loaded, sliding_window_backward(loaded, &call, NULL));
    check("backward", cuCtxSynchronize());
    printf("load %.2f ms, first call %.2f ms\n", ready - begin, done - ready);
    if (count == 8) write_outputs(words[7], tensors, bytes, lse, rows * sizeof(float));

    sliding_window_unload(loaded);
    for (int i = 0; i < TENSORS; i++) cuMemFree(tensors[i]);
    cuMemFree(lse);
    cuMemFree(workspace);
    cuDevicePrimaryCtxRelease(device);
    free(host);
    return 0;
}
