package web

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// TestGuessesThatComeTogether: who guesses many passwords at once has no more
// of them compared than who guesses one after another.
func TestGuessesThatComeTogether(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("open sesame"), bcrypt.DefaultCost)
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(Config{Accounts: []Account{{User: "guard", Hash: string(hash)}}, Log: slog.New(slog.DiscardHandler)})
	var compared atomic.Int32
	bcryptCompare := g.compare
	g.compare = func(hash, password []byte) error {
		compared.Add(1)
		return bcryptCompare(hash, password)
	}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if a, _ := g.password(httptest.NewRequest("GET", "/", nil), "guard", fmt.Sprint("guess ", i)); a != nil {
				t.Error("a guess was right")
			}
		})
	}
	wg.Wait()
	if n := compared.Load(); n < 1 || n > 11 {
		t.Errorf("%d of 60 guesses were compared, want 10", n)
	}
}
