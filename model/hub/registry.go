package hub

import "slices"

// Entry is a model that is known by a short name.
type Entry struct {
	Name, Repo, Layout, License string
	// Download and Memory are about how many megabytes it takes at most, at fp32,
	// to fetch and to run. q4, which a CPU gets unless another is asked for, takes
	// about a third.
	Download, Memory int
}

// Registry lists the models that Lookout's layouts were written for.
var Registry = []Entry{
	{"smolvlm2-256m", "HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "smolvlm", "apache-2.0", 1100, 2000},
	{"smolvlm-256m", "HuggingFaceTB/SmolVLM-256M-Instruct", "smolvlm", "apache-2.0", 1100, 2000},
	{"smolvlm2-500m", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "smolvlm", "apache-2.0", 2100, 3500},
	{"llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava_onevision", "apache-2.0", 3600, 5000},
	{"llava-interleave-0.5b", "llava-hf/llava-interleave-qwen-0.5b-hf", "llava", "other (research)", 3600, 5000},
	{"fastvlm-0.5b", "onnx-community/FastVLM-0.5B-ONNX", "llava", "apple-amlr (research)", 3100, 4500},
	{"clip-vit-b32", "Xenova/clip-vit-base-patch32", "clip", "mit", 610, 900},
	{"siglip-b16-224", "Xenova/siglip-base-patch16-224", "siglip", "apache-2.0", 820, 1100},
	{"smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "decoder", "apache-2.0", 540, 900},
}

// Lookup finds an entry by its short name.
func Lookup(name string) (Entry, bool) {
	i := slices.IndexFunc(Registry, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return Registry[i], true
}

// Names are the short names.
func Names() []string {
	names := make([]string, len(Registry))
	for i, e := range Registry {
		names[i] = e.Name
	}
	return names
}
