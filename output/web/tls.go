package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificate loads the configured certificate, or makes one.
func certificate(c Config) (tls.Certificate, error) {
	if c.TLSCert != "self" {
		cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return cert, fmt.Errorf("web: TLS certificate: %w", err)
		}
		return cert, nil
	}
	certFile, keyFile := filepath.Join(c.StateDir, "web-cert.pem"), filepath.Join(c.StateDir, "web-key.pem")
	if c.StateDir != "" {
		if cert, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && cert.Leaf != nil && time.Until(cert.Leaf.NotAfter) > 24*time.Hour {
			return cert, nil
		}
	}
	certPEM, keyPEM, err := selfMade(c)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("web: make a certificate: %w", err)
	}
	if c.StateDir != "" {
		if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
			return tls.Certificate{}, fmt.Errorf("web: keep the certificate: %w", err)
		}
		for f, b := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
			if err := os.WriteFile(f, b, 0o600); err != nil {
				return tls.Certificate{}, fmt.Errorf("web: keep the certificate: %w", err)
			}
		}
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err == nil {
		c.Log.Info("made a TLS certificate; browsers ask once whether to trust it", "sha256", fmt.Sprintf("%X", sha256.Sum256(cert.Certificate[0])))
	}
	return cert, err
}

// selfMade makes a certificate for this machine's names and addresses.
func selfMade(c Config) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	t := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Lookout"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 397), // browsers accept no longer
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if name, err := os.Hostname(); err == nil {
		t.DNSNames = append(t.DNSNames, name)
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() {
			t.IPAddresses = append(t.IPAddresses, n.IP)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, &t, &k.PublicKey, k)
	if err != nil {
		return nil, nil, err
	}
	kb, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb}), nil
}
