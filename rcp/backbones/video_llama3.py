"""VideoLLaMA 3: images and frames of any shape, a Qwen2 decoder with plain positions."""

from rcp.backbones.unplaced import NO_WIDTH, Unplaced


class VideoLlama3(Unplaced):
    model_types = ("video_llama_3",)
    title = "VideoLLaMA 3"
    videos = True
    limits = f"{NO_WIDTH}; its head runs over the whole prompt"
