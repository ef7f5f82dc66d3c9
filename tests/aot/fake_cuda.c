/* A CUDA driver that runs nothing: it writes down what it is asked to launch.
 *
 * FAKE_CUDA_SIZES names a file of lines "ENTRY SIZE SIZE ...", the bytes of each parameter of each
 * kernel, which the real driver knows from the machine code; FAKE_CUDA_LOG the file that gets a line
 * "ENTRY PROGRAMS THREADS SHARED WORD ..." for each launch, words in hexadecimal as in memory. A
 * tensor map is what it was encoded from.
 */
#include <cuda.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct map {
    uint64_t address;
    uint32_t element, rank, swizzle, promotion;
    uint64_t lengths[5], steps[4];
    uint32_t box[5];
};

CUresult cuInit(unsigned flags) { return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }

CUresult cuDriverGetVersion(int *version) {
    *version = 13020;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = code == CUDA_SUCCESS ? "no error" : "refused by the fake driver";
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    const char *capability = getenv("FAKE_CUDA_CAPABILITY"); /* 90 where it is not set */
    const int number = capability != NULL ? atoi(capability) : 90;
    (void)device;
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? number / 10 : number % 10;
    if (attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) *value = 2;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    (void)device;
    *context = (CUcontext)(uintptr_t)1;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    (void)device;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    (void)context;
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) { return cuCtxSetCurrent(context); }

CUresult cuCtxPopCurrent(CUcontext *context) { return cuDevicePrimaryCtxRetain(context, 0); }

CUresult cuCtxGetCurrent(CUcontext *context) { return cuDevicePrimaryCtxRetain(context, 0); }

CUresult cuCtxGetDevice(CUdevice *device) { return cuDeviceGet(device, 0); }

CUresult cuCtxSynchronize(void) { return CUDA_SUCCESS; }

CUresult cuMemAlloc(CUdeviceptr *pointer, size_t bytes) {
    *pointer = (CUdeviceptr)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr pointer) {
    free((void *)(uintptr_t)pointer);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    memcpy((void *)(uintptr_t)to, from, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    memcpy(to, (void *)(uintptr_t)from, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    (void)stream;
    memset((void *)(uintptr_t)to, value, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned number, size_t count, CUstream stream) {
    uint32_t *numbers = (uint32_t *)(uintptr_t)to;
    (void)stream;
    for (size_t i = 0; i < count; i++) numbers[i] = number;
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    const unsigned char *magic = image;
    *module = (CUmodule)(uintptr_t)1;
    return magic[0] == 0x7f && magic[1] == 'E' ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}

CUresult cuModuleUnload(CUmodule module) {
    (void)module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    char *copy = malloc(strlen(name) + 1);
    (void)module;
    strcpy(copy, name);
    *function = (CUfunction)(void *)copy;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    (void)function;
    return attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES && value <= 227 * 1024
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *out, CUtensorMapDataType element, cuuint32_t rank,
                                void *address, const cuuint64_t *lengths, const cuuint64_t *steps,
                                const cuuint32_t *box, const cuuint32_t *element_steps,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    struct map map;
    memset(&map, 0, sizeof map);
    memset(out, 0, sizeof *out);
    if ((uintptr_t)out % 64 != 0 || (uintptr_t)address % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
    if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || rank > 5) return CUDA_ERROR_INVALID_VALUE;
    if (fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) return CUDA_ERROR_INVALID_VALUE;
    map.address = (uint64_t)(uintptr_t)address;
    map.element = (uint32_t)element;
    map.rank = rank;
    map.swizzle = (uint32_t)swizzle;
    map.promotion = (uint32_t)promotion;
    for (cuuint32_t i = 0; i < rank; i++) {
        if (element_steps[i] != 1) return CUDA_ERROR_INVALID_VALUE;
        map.lengths[i] = lengths[i];
        map.box[i] = box[i];
        if (i + 1 < rank) map.steps[i] = steps[i];
        if (i + 1 < rank && steps[i] % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
    }
    if (sizeof map > sizeof *out) return CUDA_ERROR_INVALID_VALUE;
    memcpy(out, &map, sizeof map);
    return CUDA_SUCCESS;
}

static void write_words(FILE *log, const char *entry, void **places) {
    FILE *sizes = fopen(getenv("FAKE_CUDA_SIZES"), "r");
    char line[4096];
    while (sizes != NULL && fgets(line, sizeof line, sizes) != NULL) {
        char *word = strtok(line, " \n");
        if (word == NULL || strcmp(word, entry) != 0) continue;
        for (int i = 0; (word = strtok(NULL, " \n")) != NULL; i++) {
            const unsigned char *bytes = places[i];
            fputc(' ', log);
            for (int j = 0; j < atoi(word); j++) fprintf(log, "%02x", bytes[j]);
        }
        break;
    }
    if (sizes != NULL) fclose(sizes);
}

CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads,
                        unsigned threads_y, unsigned threads_z, unsigned shared, CUstream stream,
                        void **places, void **extra) {
    const char *entry = (const char *)(void *)function;
    FILE *log = fopen(getenv("FAKE_CUDA_LOG"), "a");
    (void)stream;
    if (log == NULL || y * z * threads_y * threads_z != 1 || extra != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    fprintf(log, "%s %u %u %u", entry, x, threads, shared);
    write_words(log, entry, places);
    fputc('\n', log);
    fclose(log);
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *how, CUfunction function, void **places,
                          void **extra) {
    if (how->numAttrs != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return cuLaunchKernel(function, how->gridDimX, how->gridDimY, how->gridDimZ, how->blockDimX,
                          how->blockDimY, how->blockDimZ, how->sharedMemBytes, how->hStream, places,
                          extra);
}
