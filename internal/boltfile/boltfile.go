// Package boltfile opens bbolt files that may be damaged: what bbolt and the
// kernel make a panic or a fault of becomes an error, and the file can be moved
// aside.
package boltfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// ErrBusy is returned by Open when another process uses the file.
var ErrBusy = errors.New("another process uses the file; end it, or give this one a folder of its own")

// DamagedError is what Guard makes of a panic.
type DamagedError struct{ What any }

func (e DamagedError) Error() string { return fmt.Sprintf("damaged file: %v", e.What) }

// Damaged tells whether err says that the file is damaged, rather than, say,
// that it may not be read.
func Damaged(err error) bool {
	return errors.As(err, new(DamagedError)) || errors.Is(err, berrors.ErrInvalid) ||
		errors.Is(err, berrors.ErrChecksum) || errors.Is(err, berrors.ErrVersionMismatch)
}

// Guard calls f and turns a panic of it, or a fault over a file that is shorter
// than it says, into a DamagedError.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = DamagedError{r}
		}
	}()
	return f()
}

// Open opens or makes the file, with its folder, and calls check, which should
// read all of it. It may be called again after MoveAside.
func Open(path string, check func(*bbolt.DB) error) (*bbolt.DB, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	var db *bbolt.DB
	err := Guard(func() error {
		if st, err := os.Stat(path); err == nil && st.Size() > 0 && st.Size() < int64(4*os.Getpagesize()) {
			return DamagedError{fmt.Sprintf("only %d bytes long", st.Size())}
		}
		d, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
		if errors.Is(err, berrors.ErrTimeout) {
			return ErrBusy
		}
		if err != nil {
			return err
		}
		defer func() {
			if db == nil {
				_ = d.Close()
			}
		}()
		if err := check(d); err != nil {
			return err
		}
		db = d
		return nil
	})
	return db, err
}

// MoveAside renames a damaged file and returns its new name.
func MoveAside(path string) (string, error) {
	aside := fmt.Sprintf("%s.damaged-%d", path, time.Now().UnixNano())
	return aside, os.Rename(path, aside)
}
