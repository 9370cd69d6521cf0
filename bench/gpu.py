"""placeholder of the CUDA workloads, to be written next."""
from workloads import CPU

CUDA = CPU
