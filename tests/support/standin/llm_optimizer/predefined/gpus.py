"""The table of GPUs: nominal memory as in the recorded runs, and which of them multiply in fp8."""

GPU_SPECS = {
    name: {"vram_gb": vram_gb, "precisions": ["fp16", "bf16", "fp8"] if fp8 else ["fp16", "bf16"]}
    for name, vram_gb, fp8 in (
        ("H100", 80, True),
        ("H200", 141, True),
        ("A100", 80, False),
        ("A100-40GB", 40, False),
        ("L4", 24, True),
        ("L20", 48, True),
        ("L40", 48, True),
        ("L40S", 48, True),
        ("B100", 192, True),
        ("B200", 192, True),
    )
}
