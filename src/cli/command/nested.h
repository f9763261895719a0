// SPDX-License-Identifier: Apache-2.0
// Whether this machine's KVM would let a guest run virtual machines of its own.
#pragma once

// The module ("kvm_amd") whose parameter "nested" is on, below the directory of the modules
// (/sys/module); NULL: none. Static.
const char *nested_module(const char *modules);
