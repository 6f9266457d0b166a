package redis

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNoServer is returned when there is no redis-server program on this machine.
var ErrNoServer = errors.New("redis: no redis-server on the PATH: install it (Debian: apt-get install redis-server), or use --redis URL for a server that runs already")

// Server is a redis-server child process on a loopback port.
type Server struct {
	cmd  *exec.Cmd
	addr string
	dir  string
	done chan struct{} // closed when the process has ended
	out  bytes.Buffer  // the process's output; read after done
}

// StartPrivate runs a redis-server of our own on a free loopback port, with
// dir (made when missing) as its folder. It keeps nothing on disk and ends with
// Close, with ctx, and with this process however that ends.
func StartPrivate(ctx context.Context, dir string) (*Server, error) {
	return StartServer(ctx, dir, 0, "--save", "", "--appendonly", "no")
}

// StartServer runs redis-server with args on the loopback port, a free one when
// port is 0, and returns when it answers. It ends with Close, with ctx, and with
// this process however that ends.
func StartServer(ctx context.Context, dir string, port int, args ...string) (*Server, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, ErrNoServer
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("redis: folder of the private server: %w", err)
	}
	for try := 0; ; try++ {
		p := port
		if p == 0 {
			if p, err = freePort(); err != nil {
				return nil, fmt.Errorf("redis: find a free port: %w", err)
			}
		}
		s, err := start(ctx, bin, dir, p, args)
		// Another process may have taken the free port in between.
		if err == nil || port != 0 || try == 4 || !strings.Contains(err.Error(), "in use") {
			return s, err
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func start(ctx context.Context, bin, dir string, port int, args []string) (*Server, error) {
	s := &Server{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), dir: dir, done: make(chan struct{})}
	s.cmd = exec.CommandContext(ctx, bin, append([]string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--daemonize", "no"}, args...)...)
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 5 * time.Second
	// The program ends with us, even when we are killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	ready := make(chan struct{})
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	s.cmd.Stdout, s.cmd.Stderr = pw, pw
	started := make(chan error, 1)
	go func() {
		// The death signal follows the thread that started the child, so that
		// thread must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		pw.Close()
		started <- err
		if err != nil {
			pr.Close()
			return
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			sc := bufio.NewScanner(pr)
			told := false
			for sc.Scan() {
				if !told && strings.Contains(strings.ToLower(sc.Text()), "ready to accept connections") {
					told = true
					close(ready)
				}
				if s.out.Len() < 1<<16 {
					s.out.WriteString(sc.Text() + "\n")
				}
			}
			pr.Close()
		}()
		_ = s.cmd.Wait()
		<-read
		close(s.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("redis: start %s: %w", bin, err)
	}
	select {
	case <-ready:
		return s, nil
	case <-s.done:
		return nil, fmt.Errorf("redis: redis-server on %s ended at once: %s", s.addr, lastLines(s.out.String(), 4))
	case <-time.After(30 * time.Second):
		s.Kill()
		return nil, fmt.Errorf("redis: redis-server on %s is not ready after 30 seconds", s.addr)
	case <-ctx.Done():
		<-s.done
		return nil, ctx.Err()
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}

// Addr is the server's host:port.
func (s *Server) Addr() string { return s.addr }

// URL is the server's redis:// URL.
func (s *Server) URL() string { return "redis://" + s.addr }

// Process is the server's process.
func (s *Server) Process() *os.Process { return s.cmd.Process }

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Kill ends the server at once, as a crash would, and waits for it.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// Close ends the server and waits for it.
func (s *Server) Close() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		s.Kill()
	}
	return nil
}
