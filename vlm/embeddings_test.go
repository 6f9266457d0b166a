package vlm

import (
	"slices"
	"testing"
)

// What one stream's prompt had need not be looked up for another's.
func TestEmbeddingsAreShared(t *testing.T) {
	env := environment(t)
	m, err := Open(unpack(t, "testdata/smolvlm-a.tar.gz").dir, env, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, width := t.Context(), m.g.width
	ids := []int64{5, 7, 5, 9, 7}
	first, err := m.embeddings(ctx, ids)
	if err != nil {
		t.Fatal(err)
	}
	m.table = table{}
	for i, id := range ids { // one by one
		row, err := m.embeddings(ctx, []int64{id})
		if err != nil || !slices.Equal(row, first[i*width:(i+1)*width]) {
			t.Fatalf("place %d: %v", i, err)
		}
	}
	if err := m.embed.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := m.embeddings(ctx, ids)
	if err != nil || !slices.Equal(again, first) {
		t.Errorf("with all of them known: %v", err)
	}
	if _, err := m.embeddings(ctx, []int64{5, 11}); err == nil {
		t.Error("a token that nobody has had was known")
	}
}

func TestEmbeddingsAreBounded(t *testing.T) {
	const width = mostEmbedded / 8
	var many table
	rows := make([]float32, 12*width)
	many.learn([]int64{0, 1, 2, 3, 4}, rows, width)
	many.learn([]int64{5, 6, 7, 8, 9}, rows, width)
	if n := len(many.rows); n != 5 || many.rows[5] == nil {
		t.Errorf("%d rows are kept", n)
	}
	many.learn([]int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, rows, width)
	if n := len(many.rows); n != 8 {
		t.Errorf("%d rows are kept of twelve", n)
	}
}
