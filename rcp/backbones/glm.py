"""GLM's vision models: M-RoPE, and a video's frames between markers under the image's token."""

from rcp.backbones.qwen_vl import MRope


class Glm(MRope):
    model_types = ("glm4v", "glm4v_moe", "glm46v", "glmga", "glm_ocr")
    title = "GLM-4.1V, GLM-4.5V, GLM-4.6V, GLM-GA, GLM-OCR"
    videos = True
    limits = f"{MRope.limits}; nor may images and videos share a batch"
