#pragma once

struct AxpyArguments {
    const void* x;
    void* y;
    long long count;
    float a;
    int aligned;
};
