package vlm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lookout-video/lookout/model"
)

// A folder's configuration comes from outside: whatever it says is an error or
// a configuration whose numbers can be reckoned with.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"model_type":"smolvlm","image_token_id":9,"scale_factor":4,"eos_token_id":[1,2],"text_config":{"model_type":"llama","hidden_size":32,"num_attention_heads":4,"rope_theta":1e5},"vision_config":{"image_size":32,"patch_size":4}}`), []byte(`{"patch_size":64,"image_processor":{"image_mean":[0,0,0],"image_std":[1,1,1],"size":8}}`))
	f.Add([]byte(`{"model_type":"llama","hidden_size":32,"num_attention_heads":4,"eos_token_id":null,"rope_scaling":{"rope_type":"default"}}`), []byte(`{}`))
	f.Add([]byte(`{"model_type":"qwen2","rope_parameters":{"rope_type":"yarn","rope_theta":1e6}}`), []byte(`{"image_processor":3}`))
	f.Fuzz(func(t *testing.T, config, processor []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"config.json": config, "processor_config.json": processor} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if l, err := model.Detect(dir); err == nil { // there are no graphs
			t.Fatalf("a folder without graphs is %s", l)
		}
		c, err := readConfig(dir)
		if err != nil {
			return
		}
		c.side()
		if c.mostTiles() <= 0 {
			t.Fatal("no tiles")
		}
		if r, err := newRope(c.Text, 8); err == nil && len(r.angle) != 4 {
			t.Fatalf("%d angles", len(r.angle))
		}
		_, _, _ = readPreprocessor(dir)
	})
}
