package ort

import "github.com/lookout-video/lookout/model"

// Load loads one graph of a bundle.
func (e *Env) Load(b *model.Bundle, file string, opt Options) (*Session, error) {
	src := Source{Name: file, Path: b.Path(file), Hash: b.Manifest.Files[file].SHA256}
	if src.Path == "" {
		data, err := b.Read(file)
		if err != nil {
			return nil, err
		}
		src.Data = data
	}
	return e.NewSession(src, opt)
}
