// What the tests ask of the machine, through ctypes.
#include "cuda_shim.h"

extern "C" {
void cuda_shim_order(int order) { cuda_shim::machine.order = static_cast<cuda_shim::Order>(order); }
int64_t cuda_shim_launches() { return cuda_shim::machine.launches; }
int64_t cuda_shim_atomics() { return cuda_shim::machine.atomics; }
}
