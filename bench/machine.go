package bench

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine describes where the figures were taken.
type Machine struct {
	CPU      string   `json:"cpu"`
	Cores    int      `json:"cores"` // that this process may use
	Flags    []string `json:"flags"` // instruction sets that matter to the kernels
	Governor string   `json:"governor,omitempty"`
	Memory   uint64   `json:"memory_bytes"`
	GPUs     []string `json:"gpus,omitempty"`
	System   string   `json:"system"`
	Kernel   string   `json:"kernel"`
	Go       string   `json:"go"`
	// Load is the 1-minute load average before the first scenario: a figure from
	// a machine that is busy otherwise is worth less.
	Load float64 `json:"load"`
}

var flagsThatMatter = []string{"avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve"}

// Describe looks at this machine. What can't be read stays empty.
func Describe() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Flags: []string{}}
	lines("/proc/cpuinfo", func(key, value string) bool {
		switch key {
		case "model name":
			m.CPU = value
		case "flags", "Features":
			have := strings.Fields(value)
			for _, f := range flagsThatMatter {
				if slices.Contains(have, f) {
					m.Flags = append(m.Flags, f)
				}
			}
			return false // one core speaks for all
		}
		return true
	})
	lines("/proc/meminfo", func(key, value string) bool {
		if key != "MemTotal" {
			return true
		}
		kb, _ := strconv.ParseUint(strings.Fields(value)[0], 10, 64)
		m.Memory = kb << 10
		return false
	})
	m.Governor = firstLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
	m.Kernel = firstLine("/proc/sys/kernel/osrelease")
	if f := strings.Fields(firstLine("/proc/loadavg")); len(f) > 0 {
		m.Load, _ = strconv.ParseFloat(f[0], 64)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").Output(); err == nil {
		m.GPUs = strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	return m
}

func lines(path string, f func(key, value string) bool) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		key, value, ok := strings.Cut(s.Text(), ":")
		if ok && !f(strings.TrimSpace(key), strings.TrimSpace(value)) {
			return
		}
	}
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// CPUTime is what this process has used of the CPU, user and system.
func CPUTime() time.Duration { return rusage(syscall.RUSAGE_SELF) }

// ChildCPUTime is what the finished child processes have used.
func ChildCPUTime() time.Duration { return rusage(syscall.RUSAGE_CHILDREN) }

func rusage(who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// RSS is the memory of this process that is resident, in bytes; 0 when unknown.
func RSS() uint64 {
	f := strings.Fields(firstLine("/proc/self/statm"))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// CopyBandwidth copies between two buffers of size bytes with the given threads
// until at least d has gone by, and returns the bytes read and written a second
// (the STREAM convention). Use buffers several times larger than the caches.
func CopyBandwidth(ctx context.Context, threads, size int, d time.Duration) float64 {
	threads = max(1, threads)
	src, dst := make([]byte, size), make([]byte, size)
	for i := 0; i < size; i += 4096 { // so that each page is there before the clock runs
		src[i], dst[i] = 1, 1
	}
	part := size / threads
	best := 0.0
	for began := time.Now(); time.Since(began) < d && ctx.Err() == nil; {
		done := make(chan struct{})
		start := time.Now()
		for t := range threads {
			go func() {
				copy(dst[t*part:(t+1)*part], src[t*part:(t+1)*part])
				done <- struct{}{}
			}()
		}
		for range threads {
			<-done
		}
		// The best pass: the limit, not what others left of it.
		best = max(best, 2*float64(part*threads)/time.Since(start).Seconds())
	}
	return best
}
