"""transformers + PyAV: at each new frame, describe the window of the last frames; updates a second.

The reference keeps nothing between two windows, so each is encoded and prefilled anew, as its users must.
"""
import argparse
import os
import time

from peer import finish, missing, need

p = argparse.ArgumentParser()
p.add_argument("--model", required=True, help="folder of a SmolVLM (make_models.py)")
p.add_argument("--video", required=True)
p.add_argument("--window", type=int, default=4)
p.add_argument("--tokens", type=int, default=24)
p.add_argument("--updates", type=int, default=4)
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
av, np, torch, transformers = need("av", "numpy", "torch", "transformers")
if not os.path.exists(os.path.join(a.model, "config.json")):
    missing(f"{a.model}: no model; bench/peers/make_models.py makes it")

torch.set_num_threads(a.threads)
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForImageTextToText.from_pretrained(a.model, dtype=torch.float32, attn_implementation="sdpa").eval()
processor = transformers.AutoProcessor.from_pretrained(a.model)
size = model.config.vision_config.image_size
chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Describe what happens."}]}]
prompt = transformers.ProcessorMixin.apply_chat_template(processor, chat, add_generation_prompt=True)


def frames(path: str):
    """One frame a second, scaled by FFmpeg to what the encoder takes, so that the processor's own resizing has nothing to do."""
    while True:
        with av.open(path) as c:
            st = c.streams.video[0]
            st.thread_type = "AUTO"
            st.codec_context.thread_count = a.threads
            due = 0.0
            for f in c.decode(st):
                if f.time is None or f.time < due:
                    continue
                due += 1.0
                rgb = f.reformat(size, size, "rgb24", interpolation="BILINEAR").to_ndarray()
                yield torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


@torch.inference_mode()
def describe(window):
    n = len(window)
    meta = [dict(fps=1.0, total_num_frames=n, duration=float(n), frames_indices=list(range(n)))]
    inp = processor(text=prompt, videos=[[torch.stack(window)]], video_metadata=[meta], do_sample_frames=False, return_tensors="pt")
    inp = {k: inp[k] for k in ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")}
    out = model.generate(**inp, do_sample=False, min_new_tokens=a.tokens, max_new_tokens=a.tokens, eos_token_id=None, pad_token_id=0)
    assert out.shape[1] - inp["input_ids"].shape[1] == a.tokens, out.shape


source = frames(a.video)
window = [next(source) for _ in range(a.window)]
describe(window)  # warm-up
t = time.perf_counter()
for _ in range(a.updates):
    window = window[1:] + [next(source)]
    describe(window)
finish(updates_per_second=a.updates / (time.perf_counter() - t))
