package ort

import (
	"errors"
	"fmt"
	"path/filepath"
	"unsafe"
)

// errElsewhere: weights are in no folder that the library would read them from.
var errElsewhere = errors.New("weights are elsewhere")

// apart is a model's file as bytes without its weights: of those it tells where they
// are, as of external data that they are in the file itself. So a graph of gigabytes can
// be changed with a few kilobytes of memory, and the library maps what it would copy.
// It gives src itself where it has no file, or names weights from all over the disk.
func apart(src Source) (Source, error) {
	if src.Path == "" {
		return src, nil
	}
	path, err := filepath.EvalSymlinks(src.Path)
	if err != nil {
		return src, err
	}
	// The library wants files in the model's folder, also where links lead to.
	folder := filepath.Dir(path)
	place := func(location string) (string, error) {
		file, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(src.Path), location))
		if err != nil {
			return "", err
		}
		name, err := filepath.Rel(folder, file)
		if err == nil && !filepath.IsLocal(name) {
			err = errElsewhere
		}
		return name, err
	}
	var model []byte
	err = mapped(path, func(file []byte) error {
		model, err = leaveWeights(file, filepath.Base(path), place)
		return err
	})
	switch {
	case errors.Is(err, errElsewhere):
		return src, nil
	case err != nil:
		return src, err
	}
	src.Path, src.Data, src.folder = "", model, folder
	return src, nil
}

// leaveWeights gives a model without the weights in its file, which is called name;
// place makes of other files' names those that are to stand in it.
func leaveWeights(file []byte, name string, place func(location string) (string, error)) ([]byte, error) {
	return edit(file, 7, func(graph []byte) ([]byte, error) {
		return edit(graph, 5, func(tensor []byte) ([]byte, error) {
			_, t, err := readTable(tensor)
			if err != nil {
				return nil, err
			}
			if len(t.raw) < fewBytes {
				return edit(tensor, 13, func(entry []byte) ([]byte, error) {
					location, err := readLocation(entry)
					if err != nil || location == "" {
						return entry, err
					}
					location, err = place(location)
					return pair("location", location), err
				})
			}
			out, err := edit(tensor, 9, func([]byte) ([]byte, error) { return nil, nil })
			offset := uintptr(unsafe.Pointer(&t.raw[0])) - uintptr(unsafe.Pointer(&file[0]))
			for _, entry := range [][]byte{pair("location", name), pair("offset", fmt.Sprint(offset)), pair("length", fmt.Sprint(len(t.raw)))} {
				out = appendBytes(out, 13, entry) // external_data
			}
			return appendNumber(out, 14, 1), err // data_location: EXTERNAL
		})
	})
}

// fewBytes is the size of weights that are not worth a mapping of their own.
const fewBytes = 1 << 10

// pair is a StringStringEntryProto.
func pair(key, value string) []byte {
	return appendBytes(appendBytes(nil, 1, []byte(key)), 2, []byte(value))
}
