package vision

// Work is the memory that preparing a picture takes, and the filters' weights:
// the next picture of the same size uses them again, and nothing is allocated.
// A nil Work allocates. It is used by one goroutine at a time.
type Work struct {
	plans map[planned]weights
	held  [][]byte
	given int // of held
	sum   []int32
}

// planned is what the weights of a resize depend on.
type planned struct {
	in, out int
	f       Filter
	a       Arithmetic
}

type weights struct {
	taps []taps
	bits uint
}

// mostPlans bounds what is kept of sizes that came by.
const mostPlans = 32

// Reset begins a new picture: those prepared before are overwritten.
func (k *Work) Reset() { k.given = 0 }

// bytes gives memory of n bytes, which may hold anything.
func (k *Work) bytes(n int) []byte {
	if k == nil {
		return make([]byte, n)
	}
	if k.given == len(k.held) {
		k.held = append(k.held, nil)
	}
	b := &k.held[k.given]
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	k.given++
	return (*b)[:n]
}

func (k *Work) row(n int) []int32 {
	if k == nil {
		return make([]int32, n)
	}
	if cap(k.sum) < n {
		k.sum = make([]int32, n)
	}
	return k.sum[:n]
}

// plan is the function plan, remembered.
func (k *Work) plan(in, out int, f Filter, a Arithmetic) ([]taps, uint, error) {
	if k == nil {
		return plan(in, out, f, a)
	}
	key := planned{in, out, f, a}
	if w, ok := k.plans[key]; ok {
		return w.taps, w.bits, nil
	}
	t, bits, err := plan(in, out, f, a)
	if err != nil {
		return nil, 0, err
	}
	if k.plans == nil || len(k.plans) == mostPlans {
		k.plans = map[planned]weights{}
	}
	k.plans[key] = weights{t, bits}
	return t, bits, nil
}
