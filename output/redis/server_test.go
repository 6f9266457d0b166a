package redis_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/outbox"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/output/redis/redistest"
)

func TestStartPrivateKeepsNothingAndEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "private")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	srv, err := redis.StartPrivate(ctx, dir)
	if errors.Is(err, redis.ErrNoServer) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := redistest.Open(t, redis.Config{URL: srv.URL()})
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	deliver(t, c, desc("a", 1))
	cancel()
	select {
	case <-srv.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the server outlives its context")
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

// TestPrivateServerEndsWithAKilledProgram runs this test's binary as a program
// that starts a server and is killed.
func TestPrivateServerEndsWithAKilledProgram(t *testing.T) {
	if dir := os.Getenv("LOOKOUT_TEST_PRIVATE"); dir != "" {
		srv, err := redis.StartPrivate(context.Background(), dir)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("addr", srv.Addr())
		select {}
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestPrivateServerEndsWithAKilledProgram$")
	cmd.Env = append(os.Environ(), "LOOKOUT_TEST_PRIVATE="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	if _, err := fmt.Fscanf(out, "addr %s\n", &addr); err != nil {
		t.Fatal(err)
	}
	c := redistest.Open(t, redis.Config{URL: "redis://" + addr})
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	redistest.Wait(t, "the server to end with its program", func() bool { return c.Ping(t.Context()) != nil })
}

// TestErrorsNameTheFix provokes what goes wrong in the field on real servers.
func TestErrorsNameTheFix(t *testing.T) {
	srv := redistest.Start(t)
	secret := redistest.Start(t, "--save", "", "--requirepass", "s3cret-pw")
	node := redistest.Start(t, "--save", "", "--cluster-enabled", "yes")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	do := func(args ...any) {
		t.Helper()
		if err := redistest.Open(t, redis.Config{URL: srv.URL()}).Redis().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(args, err)
		}
	}
	for _, c := range []struct {
		name        string
		cfg         redis.Config
		break_, fix func()
		want        string
	}{
		{"refused", redis.Config{URL: "redis://" + nobody.Addr().String()}, nil, nil, "nothing listens there"},
		{"unknown host", redis.Config{URL: "redis://no-such-host.invalid"}, nil, nil, "address"},
		{"no socket", redis.Config{URL: "unix:///nowhere/redis.sock"}, nil, nil, "socket does not exist"},
		{"silent", redis.Config{URL: "redis://" + silent.Addr().String(), Timeout: 100 * time.Millisecond}, nil, nil, "did not answer in time"},
		{"no password", redis.Config{URL: secret.URL()}, nil, nil, "wants a password"},
		{"wrong password", redis.Config{URL: secret.URL(), Username: "default", Password: "s3cret-wrong"}, nil, nil, "password is wrong"},
		{"wrong user", redis.Config{URL: "redis://bob:s3cret-pw@" + secret.Addr()}, nil, nil, "password is wrong"},
		{"full", redis.Config{URL: srv.URL()}, func() { do("CONFIG", "SET", "maxmemory", "1") }, func() { do("CONFIG", "SET", "maxmemory", "0") }, "raise its maxmemory"},
		{"replica", redis.Config{URL: srv.URL()}, func() { do("REPLICAOF", "127.0.0.1", "1") }, func() { do("REPLICAOF", "NO", "ONE") }, "read-only replica"},
		{"other type", redis.Config{URL: srv.URL(), Prefix: "t"}, func() { do("SET", "t:{a}:events", "x") }, nil, "choose another prefix"},
		{"lone cluster node", redis.Config{URL: node.URL()}, nil, nil, "cluster is not complete"},
		{"plain server over TLS", redis.Config{URL: "rediss://" + srv.Addr()}, nil, nil, "use redis:// in place of rediss://"},
		{"no such database", redis.Config{URL: srv.URL() + "/99"}, nil, nil, "no such database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.break_ != nil {
				c.break_()
			}
			if c.fix != nil {
				defer c.fix()
			}
			cl := redistest.Open(t, c.cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := cl.Deliver(ctx, []*event.Event{desc("a", 1)})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			} else if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the password is in: %v", err)
			}
			if errors.Is(err, outbox.ErrRefused) || errors.Is(err, outbox.ErrRewind) {
				t.Errorf("%v must be tried again", err)
			}
		})
	}
}

func TestConfigErrors(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  redis.Config
		want string
	}{
		"scheme":           {redis.Config{URL: "http://u:s3cret@host"}, "redis://"},
		"unreadable":       {redis.Config{URL: "redis://u:s3cret%zz@host"}, "%XX"},
		"port":             {redis.Config{URL: "redis://u:s3cret@host:port"}, "redis://"},
		"db":               {redis.Config{URL: "redis://u:s3cret@host/x"}, "redis://"},
		"db on a cluster":  {redis.Config{Cluster: true, DB: 1}, "prefix"},
		"no CA file":       {redis.Config{CAFile: "/nowhere.pem"}, "CA file"},
		"CA file not PEM":  {redis.Config{CAFile: "server_test.go"}, "no PEM"},
		"half a key pair":  {redis.Config{CertFile: "x"}, "key_file"},
		"a key alone":      {redis.Config{KeyFile: "x"}, "cert_file"},
		"two ways at once": {redis.Config{Cluster: true, MasterName: "yard"}, "one of them"},
		"no master":        {redis.Config{SentinelPassword: "s3cret"}, "without sentinel_master"},
		"socket and more":  {redis.Config{URL: "unix:///x.sock", MasterName: "yard"}, "one server only"},
		"key pair unread":  {redis.Config{CertFile: "x", KeyFile: "y"}, "client certificate"},
	} {
		_, err := redis.Open(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the password is in: %v", name, err)
		}
	}
}

// A server that is dialled by its address and has a certificate for its name.
func TestServerName(t *testing.T) {
	ca, cert, key := certs(t, "redis.example.com")
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	redistest.Start(t, "--save", "", "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "no")
	for _, cfg := range []redis.Config{{URL: "rediss://" + addr}, {Addrs: []string{addr}}} {
		cfg.CAFile = ca
		if err := redistest.Open(t, cfg).Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "set server_name") {
			t.Errorf("without the name: %v", err)
		}
		cfg.ServerName = "redis.example.com"
		if err := redistest.Open(t, cfg).Ping(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// certs makes a CA and a certificate that serves both sides: for name, or for
// 127.0.0.1 when there is none.
func certs(t *testing.T, name string) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	caT := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA " + rand.Text()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER := must(x509.CreateCertificate(rand.Reader, caT, caT, &caKey.PublicKey, caKey))
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "redis"}, NotBefore: caT.NotBefore, NotAfter: caT.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if name != "" {
		leaf.IPAddresses, leaf.DNSNames = nil, []string{name}
	}
	return write("ca.pem", "CERTIFICATE", caDER),
		write("cert.pem", "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, leaf, caT, &k.PublicKey, caKey))),
		write("key.pem", "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(k)))
}

func TestTLS(t *testing.T) {
	ca, cert, key := certs(t, "")
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	redistest.Start(t, "--save", "", "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca)
	good := redis.Config{URL: "rediss://" + addr, CAFile: ca, CertFile: cert, KeyFile: key}
	c := redistest.Open(t, good)
	deliver(t, c, desc("a", 1))
	byAddrs := good
	byAddrs.URL, byAddrs.Addrs = "", []string{addr} // TLS by CAFile alone
	deliver(t, redistest.Open(t, byAddrs), desc("a", 2))
	if got := seqs(t, c, c.Config().EventsKey("a")); got != "a1 a2" {
		t.Error(got)
	}
	for name, e := range map[string]struct {
		change func(*redis.Config)
		want   string
	}{
		"unknown authority": {func(c *redis.Config) { c.CAFile = "" }, "set ca_file"},
		"another name":      {func(c *redis.Config) { c.ServerName = "example.org" }, "set server_name"},
		"no certificate":    {func(c *redis.Config) { c.CertFile, c.KeyFile = "", "" }, "set cert_file and key_file"},
		"a strange one":     {func(c *redis.Config) { _, c.CertFile, c.KeyFile = certs(t, "") }, "set cert_file and key_file"},
		"no TLS":            {func(c *redis.Config) { *c = redis.Config{URL: "redis://" + addr, Timeout: time.Second} }, "TLS"},
	} {
		cfg := good
		e.change(&cfg)
		err := redistest.Open(t, cfg).Ping(t.Context())
		if err == nil || !strings.Contains(err.Error(), e.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, e.want)
		}
	}
}

// aclRule is what docs/redis.md tells operators to give Lookout's user.
const aclRule = `on >pw resetkeys ~lookout:* ~{lookout:events}:seen resetchannels &lookout:* -@all +ping +hello +client +evalsha +eval +xadd +xtrim +xinfo +hset +hget +publish +xrange +xrevrange +xread +exists +hgetall`

func TestACLUser(t *testing.T) {
	srv := redistest.Start(t)
	admin := redistest.Open(t, redis.Config{URL: srv.URL()})
	args := []any{"ACL", "SETUSER", "lookout"}
	for _, a := range strings.Fields(aclRule) {
		args = append(args, a)
	}
	if err := admin.Redis().Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/redis.md")
	if err != nil || !strings.Contains(string(doc), aclRule) {
		t.Errorf("docs/redis.md does not have the rule that is tested here (%v)", err)
	}
	c := redistest.Open(t, redis.Config{URL: "redis://lookout:pw@" + srv.Addr(), Notify: true, MaxAge: time.Hour * 1e5})
	deliver(t, c, desc("a", 1))
	if _, err := c.State(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	for _, err := range c.Replay(t.Context(), redis.ReplayOptions{}) {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Lag(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	for _, err := range c.Tail(t.Context(), redis.TailOptions{Last: 1}) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	if err := admin.Redis().Do(t.Context(), "ACL", "SETUSER", "lookout", "-xadd").Err(); err != nil {
		t.Fatal(err)
	}
	err = c.Deliver(t.Context(), []*event.Event{desc("a", 2)})
	if err == nil || !strings.Contains(err.Error(), "lacks a permission") {
		t.Errorf("without XADD: %v", err)
	}
}

func TestCluster(t *testing.T) {
	var addrs, ports []string
	for range 3 {
		srv := redistest.Start(t, "--save", "", "--cluster-enabled", "yes")
		addrs = append(addrs, srv.Addr())
		_, port, _ := net.SplitHostPort(srv.Addr())
		ports = append(ports, port)
	}
	cli, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(cli, append(append([]string{"--cluster", "create"}, addrs...), "--cluster-replicas", "0", "--cluster-yes")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := redistest.Open(t, redis.Config{URL: "redis://" + addrs[0], Cluster: true})
	redistest.Wait(t, "the cluster to be complete on each node", func() bool {
		for _, p := range ports {
			out, _ := exec.Command(cli, "-p", p, "cluster", "info").Output()
			if !strings.Contains(string(out), "cluster_state:ok") {
				return false
			}
		}
		return true
	})
	var evs []*event.Event
	for i := range uint64(5) {
		for cam := range 12 {
			evs = append(evs, desc(fmt.Sprint("cam", cam), i+1))
		}
	}
	for range 2 { // the second time is a replay
		deliver(t, c, evs[:30]...)
		deliver(t, c, evs...)
	}
	slots := map[string]bool{}
	for cam := range 12 {
		n := fmt.Sprint("cam", cam)
		if got, want := seqs(t, c, c.Config().EventsKey(n)), fmt.Sprintf("%[1]s1 %[1]s2 %[1]s3 %[1]s4 %[1]s5", n); got != want {
			t.Errorf("%s: %q", n, got)
		}
		slot, _ := c.Redis().ClusterKeySlot(t.Context(), c.Config().EventsKey(n)).Result()
		slots[fmt.Sprint(slot/5461)] = true
	}
	if len(slots) != 3 {
		t.Errorf("the cameras are on %d of 3 nodes", len(slots))
	}
	if n, err := c.Redis().XLen(t.Context(), c.Config().AllKey()).Result(); err != nil || n != 60 {
		t.Errorf("the stream of all cameras has %d of 60: %v", n, err)
	}
	err = redistest.Open(t, redis.Config{URL: "redis://" + addrs[0]}).Deliver(t.Context(), evs)
	if err == nil || !strings.Contains(err.Error(), "two or more of its nodes") {
		t.Errorf("without cluster: %v", err)
	}
}

// startSentinel runs a Sentinel with the lines of conf and gives its address.
func startSentinel(t *testing.T, conf ...string) string {
	t.Helper()
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	path := filepath.Join(t.TempDir(), "sentinel.conf")
	if err := os.WriteFile(path, []byte(strings.Join(append([]string{"port " + port, "bind 127.0.0.1"}, conf...), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "redis-server", path, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	redistest.Wait(t, "the Sentinel to listen", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The Sentinels have a user of their own, and so has the primary.
func TestSentinelsOwnUser(t *testing.T) {
	primary := redistest.Start(t, "--save", "", "--requirepass", "primary-s3cret")
	_, port, _ := net.SplitHostPort(primary.Addr())
	saddr := startSentinel(t, "sentinel monitor yard 127.0.0.1 "+port+" 1", "sentinel auth-pass yard primary-s3cret",
		"user default off", "user eyes on >sentinel-s3cret allchannels +@all")
	good := redis.Config{Addrs: []string{saddr}, MasterName: "yard", Password: "primary-s3cret", SentinelUsername: "eyes", SentinelPassword: "sentinel-s3cret", Timeout: time.Second}
	c := redistest.Open(t, good)
	redistest.Wait(t, "the Sentinel to know the primary", func() bool { return c.Ping(t.Context()) == nil })
	deliver(t, c, desc("a", 1))
	for name, e := range map[string]struct {
		change func(*redis.Config)
		want   string
	}{
		"no user":               {func(c *redis.Config) { c.SentinelUsername, c.SentinelPassword = "", "" }, "set sentinel_password"},
		"a wrong password":      {func(c *redis.Config) { c.SentinelPassword = "wrong-s3cret" }, "sentinel_password is wrong"},
		"the primary's instead": {func(c *redis.Config) { c.SentinelUsername, c.SentinelPassword = "", "primary-s3cret" }, "sentinel_password is wrong"},
		"another primary":       {func(c *redis.Config) { c.MasterName = "garden" }, "check sentinel_master"},
		"the primary's missing": {func(c *redis.Config) { c.Password = "" }, "set password"},
		"no Sentinel there":     {func(c *redis.Config) { c.Addrs = []string{freeAddr(t)} }, "its Sentinels: nothing listens there"},
	} {
		cfg := good
		e.change(&cfg)
		err := redistest.Open(t, cfg).Ping(t.Context())
		if err == nil || !strings.Contains(err.Error(), e.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, e.want)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: a password is in: %v", name, err)
		}
	}
}

// TestSentinelFailover kills the primary: the replica takes over and nothing is
// lost, not even what the primary had not passed on yet.
func TestSentinelFailover(t *testing.T) {
	primary := redistest.Start(t)
	_, pport, _ := net.SplitHostPort(primary.Addr())
	replica := redistest.Start(t, "--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1 "+pport)
	saddr := startSentinel(t, "sentinel monitor yard 127.0.0.1 "+pport+" 1", "sentinel down-after-milliseconds yard 300", "sentinel failover-timeout yard 2000")

	direct := redistest.Open(t, redis.Config{URL: replica.URL()})
	info := func(c *redis.Client, section, want string) bool {
		s, _ := c.Redis().Info(t.Context(), section).Result()
		return strings.Contains(s, want)
	}
	redistest.Wait(t, "the replica to be in sync", func() bool { return info(direct, "replication", "master_link_status:up") })
	sentinel := redistest.Open(t, redis.Config{URL: "redis://" + saddr})
	redistest.Wait(t, "the sentinel to know the replica", func() bool { return info(sentinel, "sentinel", "slaves=1") })

	c, err := redis.Open(redis.Config{Addrs: []string{saddr}, MasterName: "yard", Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	box, err := outbox.Open(outbox.Config{Path: filepath.Join(t.TempDir(), "box.db"), Linger: time.Minute, MaxBackoff: 200 * time.Millisecond}, c)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	go func() { _ = box.Run(t.Context()) }()
	put := func(from, to uint64) {
		t.Helper()
		for i := from; i <= to; i++ {
			if err := box.Publish(t.Context(), desc("a", i)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := box.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 5)
	redistest.Wait(t, "the replica to have 5", func() bool { return direct.Redis().XLen(t.Context(), c.Config().EventsKey("a")).Val() == 5 })
	// From here on the replica hears nothing: it takes over without 6 to 10.
	if err := direct.Redis().Do(t.Context(), "CLIENT", "KILL", "TYPE", "master").Err(); err != nil {
		t.Log(err)
	}
	if err := direct.Redis().Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	put(6, 10)
	if err := direct.Redis().Do(t.Context(), "REPLICAOF", "127.0.0.1", pport).Err(); err != nil {
		t.Fatal(err)
	}
	primary.Kill()
	put(11, 12)
	if got := seqs(t, direct, c.Config().EventsKey("a")); got != "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 a12" {
		t.Errorf("the new primary has %q", got)
	}
	t.Logf("rewinds: %d", box.Stats().Rewinds)
}
