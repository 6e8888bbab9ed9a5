"""Names: what ZMLX does with each public name of mlx.core; the docs' table and its test read it.

Every name is a row of the op table, a composite of rows, a reduction, an opaque call (MLX runs it,
a fused region ends before it and a new one starts after it), or no function of arrays at all.
"""

from __future__ import annotations

from zmlx.ops.composite import COMPOSITES
from zmlx.ops.reductions import REDUCTIONS
from zmlx.ops.table import OPS

OPAQUE = {
    "reductions and scans": """
        allclose array_equal count_nonzero cummax cummin cumprod cumsum cumulative_prod
        cumulative_sum logcumsumexp logsumexp mean median minmax softmax std var vecdot""",
    "linear algebra and convolution": """
        addmm block_masked_mm conv1d conv2d conv3d conv_general conv_transpose1d conv_transpose2d
        conv_transpose3d convolve einsum gather_mm gather_qmm gather_qqmm hadamard_transform inner
        kron matmul matrix_norm outer qqmm quantized_matmul segmented_mm tensordot trace""",
    "shape, layout, indexing": """
        as_strided atleast_1d atleast_2d atleast_3d broadcast_arrays broadcast_to concat concatenate
        contiguous diag diagonal diff expand_dims flatten flip matrix_transpose moveaxis pad
        permute_dims put_along_axis repeat reshape roll slice slice_update split squeeze stack
        swapaxes take take_along_axis tile transpose tri tril triu unflatten unstack view""",
    "sorting and searching": "argpartition argsort partition searchsorted sort topk unique",
    "creation": """
        arange array asarray bartlett blackman empty empty_like eye full full_like hamming hanning
        identity linspace meshgrid ones zeros from_dlpack""",
    "elementwise, but left to MLX": """
        conj conjugate real imag divmod from_fp8 to_fp8 quantize dequantize""",
    "submodules": "distributed fast fft linalg random",
}  # complex functions and fp8 have no MSL form here; divmod has two results

OTHER = {
    "transformations": """
        checkpoint compile custom_function depends disable_compile enable_compile grad jvp
        value_and_grad vjp vmap""",
    "evaluation, files, export": """
        async_eval eval export_function export_to_dot exporter import_function load save save_gguf
        save_safetensors savez savez_compressed FunctionExporter""",
    "dtypes and their relations": """
        bfloat16 bool_ can_cast complex64 complexfloating finfo float16 float32 float64 floating
        generic iinfo inexact int16 int32 int64 int8 integer isdtype issubdtype number result_type
        signedinteger uint16 uint32 uint64 uint8 unsignedinteger Dtype DtypeCategory""",
    "devices, streams, memory, printing": """
        clear_cache clear_streams cpu cuda default_device default_stream device_count device_info
        get_active_memory get_array_buffer_size get_cache_memory get_memory_limit get_peak_memory
        get_printoptions gpu is_available metal new_stream new_thread_local_stream
        new_thread_unsafe_stream printoptions reset_peak_memory set_cache_limit set_default_device
        set_default_stream set_memory_limit set_printoptions set_wired_limit stream synchronize
        Device DeviceType PrintOptions Stream StreamContext ThreadLocalStream""",
    "constants, types, shapes as numbers": """
        ArrayAt ArrayIterator ArrayLike broadcast_shapes e einsum_path euler_gamma inf nan newaxis
        pi""",
}


def meaning(name: str) -> str | None:
    """What `name` is: "row", "composite", "reduction", "opaque", "other", or None if unknown."""
    if f"mlx.core.{name}" in COMPOSITES:
        return "composite"
    if any(name in spec.mx for spec in OPS.values()):
        return "row"
    if name in REDUCTIONS:
        return "reduction"
    for kind, groups in (("opaque", OPAQUE), ("other", OTHER)):
        if any(name in text.split() for text in groups.values()):
            return kind
    return None
