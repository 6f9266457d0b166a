#!/usr/bin/env bash
# Installs or builds what Lookout needs and this machine lacks. What is downloaded or built goes to $LOOKOUT_CACHE
# (default ~/.cache/lookout), pinned by version and sha256, and is kept for the next clone. Where there are several sources
# they are tried in turn, and the one used is named. It may be interrupted at any time and run again.
#
# Usage: scripts/deps.sh        a C compiler, Go, FFmpeg 7.1, ONNX Runtime, redis-server
#        scripts/deps.sh test   and what only the tests need: Chromium, Python with a Redis client
#        scripts/deps.sh lint   and golangci-lint
#        scripts/deps.sh cuda   and the ONNX Runtime that runs on NVIDIA GPUs (needs CUDA 12 and cuDNN 9 on the machine)
#        scripts/deps.sh env    print the exports that plain go commands need
set -euo pipefail

CACHE=${LOOKOUT_CACHE:-$HOME/.cache/lookout}
MACHINE=$(uname -m)

GO_WANTED=1.26 # the least that will do; go.mod says the same
GO_VERSION=1.26.8
# ONNX Runtime: onnxruntime_go v1.27.0 asks for C API 24, which any library from 1.24 on has. 1.24.4 was measured to be the
# fastest of them at decoding (86 tokens a second; 1.32.0: 77).
ORT_VERSION=1.24.4
ORT_GO=github.com/yalue/onnxruntime_go
ORT_RELEASES=https://github.com/microsoft/onnxruntime/releases/download/v$ORT_VERSION
ORT_GPU_SHA256=c5f804ff5d239b436fa59e9f2fb288a39f7eb9552f6a636c8b71e792e91a8808
ORT_GPU_WHEEL_SHA256=eb0e38f0c1ef3b76ae0081c8e51eed20dd8925aa916f0fc6f9b8b17d05610e99
case $MACHINE in
x86_64)
  GO_ARCH=amd64
  GO_SHA256=d0f743b33e8d8945e6b1f432edd15785c70507121d6e2a723b21285eddf8b57b
  GO_ZIP_SHA256=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7
  ORT_TARBALL=onnxruntime-linux-x64-$ORT_VERSION.tgz
  ORT_SHA256=3a211fbea252c1e66290658f1b735b772056149f28321e71c308942cdb54b747
  ORT_WHEEL_SHA256=0d640eb9f3782689b55cfa715094474cd5662f2f137be6a6f847a594b6e9705c
  ;;
aarch64)
  GO_ARCH=arm64
  GO_SHA256=211ffced9dcb9633a55eac6364816ec0ddd951389a740e88fa8b3337971bdda0
  GO_ZIP_SHA256=02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99
  ORT_TARBALL=onnxruntime-linux-aarch64-$ORT_VERSION.tgz
  ORT_SHA256=866109a9248d057671a039b9d725be4bd86888e3754140e6701ec621be9d4d7e
  ORT_WHEEL_SHA256=1a5c5a544b22f90859c88617ecb30e161ee3349fcc73878854f43d77f00558b5
  ;;
*) echo "deps: this is a $MACHINE machine; Lookout runs on x86_64 and aarch64" >&2; exit 1 ;;
esac
GO_URL=https://go.dev/dl/go$GO_VERSION.linux-$GO_ARCH.tar.gz
GO_DIR=$CACHE/go-$GO_VERSION
ORT_DIR=$CACHE/onnxruntime-$ORT_VERSION
ORT_GPU_DIR=$CACHE/onnxruntime-gpu-$ORT_VERSION

LINT_VERSION=v2.15.0
LINT=$CACHE/bin/golangci-lint-$LINT_VERSION

FFMPEG_VERSION=7.1.5
FFMPEG_SHA256=de668509caf9e35e3cd162473441fdb29538c6d96ed080292b3cf9e6fc5d558f
FFMPEG_URL=https://ffmpeg.org/releases/ffmpeg-$FFMPEG_VERSION.tar.xz
# The headers of NVIDIA's decoder; its library is looked for at run time only. Debian packs the same files anew, hence two sums.
NV_VERSION=12.1.14.0
NV_SHA256=62b30ab37e4e9be0d0c5b37b8fee4b094e38e570984d56e1135a6b6c2c164c9f
NV_DEBIAN_SHA256=0ca1a0c85b149646fa6ce4d600584507fdccf5a23d58e668d8701e89cee0c3fb
NV_URL=https://github.com/FFmpeg/nv-codec-headers/releases/download/n$NV_VERSION/nv-codec-headers-$NV_VERSION.tar.gz

# Only what cameras and browsers use: a smaller parser surface is a safer one.
FFMPEG_CONFIG=(
  --enable-shared --disable-static --disable-programs --enable-ffmpeg --enable-ffprobe --disable-doc --disable-debug
  --disable-everything --disable-autodetect --enable-version3 --enable-openssl --enable-libvpx --enable-libdav1d --enable-zlib
  --enable-vaapi --enable-libdrm --enable-ffnvcodec --enable-cuvid --enable-nvdec
  --enable-hwaccel=h264_vaapi,hevc_vaapi,vp8_vaapi,vp9_vaapi,av1_vaapi,mjpeg_vaapi,mpeg2_vaapi,h264_nvdec,hevc_nvdec,vp8_nvdec,vp9_nvdec,av1_nvdec,mjpeg_nvdec,mpeg2_nvdec,mpeg4_nvdec
  --enable-decoder=h264,hevc,vp8,vp9,libdav1d,av1,mjpeg,mpeg4,mpeg2video,mpeg1video,rawvideo,png,wrapped_avframe
  --enable-encoder=libvpx_vp8,mjpeg,rawvideo,wrapped_avframe,png,mpeg4,mpeg2video
  --enable-parser=h264,hevc,vp8,vp9,av1,mjpeg,mpeg4video,mpegvideo,png
  --enable-demuxer=mov,matroska,rtsp,rtp,sdp,hls,mpegts,mpegps,mpjpeg,mjpeg,flv,avi,ivf,h264,hevc,m4v,image2,asf,mpegvideo,obu,wav
  --enable-muxer=mp4,matroska,webm,mpegts,rtsp,rtp,hls,mpjpeg,mjpeg,ivf,image2,rawvideo,null,avi,h264,framemd5
  --enable-protocol=file,pipe,tcp,udp,rtp,http,https,tls,hls,crypto,httpproxy
  --enable-indev=v4l2,lavfi
  --enable-bsf=h264_mp4toannexb,hevc_mp4toannexb,extract_extradata,vp9_superframe,vp9_superframe_split,mpeg4_unpack_bframes,av1_frame_split,av1_frame_merge,dump_extra,null,noise
  --enable-filter=scale,format,fps,buffer,buffersink,transpose,hflip,vflip,null,crop,pad,setpts,setparams,hwdownload,hwupload,hwmap,testsrc,testsrc2,color,smptebars,nullsrc
)
KEY=$( (printf '%s\n' "$FFMPEG_SHA256" "${FFMPEG_CONFIG[@]}"; echo "$MACHINE") | sha256sum | cut -c1-12)
PREFIX=$CACHE/ffmpeg-$FFMPEG_VERSION-$KEY

say() { printf 'deps: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
sum_is() { [ -e "$2" ] && echo "$1  $2" | sha256sum -c --status - 2>/dev/null; }

# --- what is there already; each of these is quick -----------------------------------------------------------------------
system_ffmpeg() { has pkg-config && pkg-config --exists 'libavcodec >= 61.19' 'libavcodec < 62' 'libavformat < 62' libavdevice libavfilter libswscale libswresample 2>/dev/null; }
have_ffmpeg() { [ -e "$PREFIX/ready" ] || system_ffmpeg; }
system_go() {
  local v
  v=$(GOTOOLCHAIN=local go version 2>/dev/null) || return 1
  v=${v#go version go}
  [ "$(printf '%s\n' "${v%% *}" "$GO_WANTED" | sort -V | head -1)" = "$GO_WANTED" ]
}
have_go() { system_go || [ -x "$GO_DIR/bin/go" ]; }
have_ort() { [ -e "$ORT_DIR/lib/libonnxruntime.so" ]; }
have_ort_gpu() { [ -e "$ORT_GPU_DIR/lib/libonnxruntime.so" ]; }

if [ "${1:-}" = env ]; then
  path=
  [ -e "$PREFIX/ready" ] && path=$PREFIX/bin:
  system_go || { [ -x "$GO_DIR/bin/go" ] && path=$GO_DIR/bin:$path; }
  [ -n "$path" ] && printf "export PATH='%s'\"\$PATH\"\n" "$path"
  if [ -e "$PREFIX/ready" ]; then
    printf "export PKG_CONFIG_PATH='%s/lib/pkgconfig'\nexport CGO_LDFLAGS='-O2 -g -Wl,--disable-new-dtags -Wl,-rpath,%s/lib'\n" "$PREFIX" "$PREFIX"
  fi
  have_ort && printf "export LOOKOUT_ONNXRUNTIME='%s/lib/libonnxruntime.so'\n" "$ORT_DIR"
  # The C API of ONNX Runtime comes with its Go bindings.
  printf 'export CGO_ENABLED=1\n'
  if have_go; then
    api=$(cd "$(dirname "$0")/.." && PATH=$path$PATH && go mod download $ORT_GO && go list -m -f '{{.Dir}}' $ORT_GO) || die "cannot download $ORT_GO"
    printf "export CGO_CFLAGS='-O2 -g -I%s'\n" "$api"
  fi
  exit
fi
mode=${1:-}
case $mode in "" | test | lint | cuda) ;; lint-path) echo "$LINT"; exit ;; *) die "unknown word $mode; see the head of this script" ;; esac

# --- packages of the system ----------------------------------------------------------------------------------------------
missing=()
need() { has "$1" || missing+=("$2"); }
header() { [ -e "/usr/include/$1" ] || [ -e "/usr/include/$MACHINE-linux-gnu/$1" ] || missing+=("$2"); }
# install_missing installs ${missing[@]}, or says how.
install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  local list="${missing[*]}"
  missing=()
  if ! has apt-get; then die "missing: $list (Debian's names); install them and run this again"; fi
  if [ "$(id -u)" != 0 ]; then
    die "missing $list; run: sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends $list'"
  fi
  say "installing $list"
  local t=$SECONDS
  mkdir -p "$CACHE"
  {
    dpkg --configure -a # an installation may have been interrupted
    apt-get update -q
    # shellcheck disable=SC2086
    # A fresh machine may still be installing its own updates.
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $list
  } >"$CACHE/apt.log" 2>&1 || { tail -5 "$CACHE/apt.log" >&2; die "apt-get failed; see $CACHE/apt.log"; }
  say "installed in $((SECONDS - t))s"
}

need gcc gcc; need g++ g++; need make make; need pkg-config pkg-config; need git git; need curl curl; need xz xz-utils
need redis-server redis-server
header stdio.h libc6-dev
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if ! have_ffmpeg; then
  need nasm nasm
  header vpx/vp8cx.h libvpx-dev; header dav1d/dav1d.h libdav1d-dev; header openssl/ssl.h libssl-dev; header zlib.h zlib1g-dev
  header va/va.h libva-dev; header libdrm/drm.h libdrm-dev
fi
if [ "$mode" = test ]; then
  has chromium || has chromium-browser || has google-chrome || missing+=(chromium)
  need python3 python3
  python3 -c 'import redis' 2>/dev/null || /usr/bin/python3 -c 'import redis' 2>/dev/null || missing+=(python3-redis)
fi
install_missing

ready() {
  have_ffmpeg && have_go && have_ort || return 1
  case $mode in
  lint) [ -x "$LINT" ] ;;
  cuda) have_ort_gpu ;;
  esac
}
if ready; then exit; fi

# --- downloads and builds, one clone at a time ---------------------------------------------------------------------------
mkdir -p "$CACHE"
exec 9>"$CACHE/deps.lock"
flock -n 9 || { say "another clone is at it; waiting for it"; flock 9; }
work=$CACHE/build.$$
build=
clean_up() {
  if [ -n "$build" ]; then kill "$build" 2>/dev/null; wait "$build" || true; fi
  rm -rf "$CACHE"/build.* # also what a killed run left: the lock says that no other is running
}
trap clean_up EXIT
trap 'exit 130' INT TERM
mkdir -p "$work"

fetch() { # fetch URL FILE
  local bar=-sS
  [ -t 2 ] && bar=--progress-bar
  curl -fL $bar --connect-timeout 10 --speed-limit 1000 --speed-time 30 -o "$2" "$1"
}
# first WHAT FUNCTION...: the first of the functions that succeeds.
first() {
  local what=$1 source t=$SECONDS
  shift
  for source in "$@"; do
    say "$what: trying ${source//_/ }"
    if $source; then
      say "$what: got it from ${source//_/ }, sha256 right, $((SECONDS - t))s"
      return 0
    fi
  done
  return 1
}
# debian_source NAME: the upstream tarball that Debian 13 keeps beside its package, from the mirror this machine uses.
debian_source() {
  has apt-get || return 1
  local uri apt=$work/apt
  uri=$(apt-get indextargets --format '$(REPO_URI)' | grep -E '/debian/?$' | grep -v security | sort -u | head -1)
  [ -n "$uri" ] || return 1
  mkdir -p "$apt/lists/partial"
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" >"$apt/sources.list"
  local opt=(-q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o APT::Sandbox::User=root)
  (cd "$work" && apt-get "${opt[@]}" update && apt-get "${opt[@]}" source --download-only --tar-only "$1") >/dev/null 2>&1
}

# 1. Go.
the_Go_release_page() {
  fetch "$GO_URL" "$work/go.tar.gz" && sum_is "$GO_SHA256" "$work/go.tar.gz" && tar -C "$work" -xzf "$work/go.tar.gz"
}
# Any Go, however old, can fetch the release as a module, through the proxy that this machine uses.
the_Go_module_proxy() {
  has go || { missing=(golang-go); install_missing; }
  local mod=$work/mod name=golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-$GO_ARCH
  (cd "$work" && GOTOOLCHAIN=local GOFLAGS=-modcacherw GO111MODULE=on GOMODCACHE=$mod go mod download "$name") &&
    sum_is "$GO_ZIP_SHA256" "$mod/cache/download/golang.org/toolchain/@v/v0.0.1-go$GO_VERSION.linux-$GO_ARCH.zip" &&
    mv "$mod/$name" "$work/go" &&
    # As the go command does with its toolchains: a module has no nested go.mod and no executable files.
    find "$work/go/src" -name _go.mod -execdir mv {} go.mod \; &&
    chmod +x "$work/go/bin/"* "$work/go/pkg/tool/linux_$GO_ARCH/"*
}
if ! have_go; then
  first "Go $GO_VERSION" the_Go_release_page the_Go_module_proxy ||
    die "no source of Go could be reached; install Go $GO_WANTED or newer from https://go.dev/dl/, put it on PATH and run this again"
  rm -rf "$GO_DIR"
  mv "$work/go" "$GO_DIR"
fi
system_go || PATH=$GO_DIR/bin:$PATH

# 2. ONNX Runtime. ort_* say which build of it is wanted: the one for CPUs or the one for NVIDIA GPUs.
keep_ort() { # what was unpacked under $work/ort goes into place, whole or not at all
  local lib=$work/ort/out/lib main
  main=$(find "$work/ort" -type f -name "libonnxruntime.so.$ORT_VERSION" | head -1)
  [ -n "$main" ] && mkdir -p "$lib" && cp "$main" "$lib/libonnxruntime.so" &&
    find "$work/ort" -name 'libonnxruntime_providers_*.so' -not -path '*/out/*' -exec cp {} "$lib" \; &&
    rm -rf "$ort_dir" && mv "$work/ort/out" "$ort_dir"
}
the_release_page() {
  fetch "$ORT_RELEASES/$ort_tarball" "$work/ort.tgz" && sum_is "$ort_sha256" "$work/ort.tgz" && mkdir -p "$work/ort" && tar -C "$work/ort" -xzf "$work/ort.tgz" && keep_ort
}
# The Python wheel holds the same library; pip knows which index this machine uses.
the_Python_wheel() {
  has python3 && python3 -m pip --version >/dev/null 2>&1 || { missing=(python3 python3-pip); install_missing; }
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --platform "manylinux_2_28_$MACHINE" --platform "manylinux_2_27_$MACHINE" -d "$work/wheel" "$ort_package==$ORT_VERSION" || return 1
  sum_is "$ort_wheel_sha256" "$work/wheel/"*.whl && mkdir -p "$work/ort" && python3 -m zipfile -e "$work/wheel/"*.whl "$work/ort" && keep_ort
}
get_ort() {
  rm -rf "$work/ort" "$work/wheel"
  first "$ort_package $ORT_VERSION" the_release_page the_Python_wheel ||
    die "no source of ONNX Runtime could be reached; put $ORT_RELEASES/$ort_tarball's lib/ at $ort_dir/lib, with libonnxruntime.so in it, and run this again"
}
if ! have_ort; then
  ort_package=onnxruntime ort_dir=$ORT_DIR ort_tarball=$ORT_TARBALL ort_sha256=$ORT_SHA256 ort_wheel_sha256=$ORT_WHEEL_SHA256
  get_ort
fi
if [ "$mode" = cuda ] && ! have_ort_gpu; then
  [ "$MACHINE" = x86_64 ] || die "ONNX Runtime for NVIDIA GPUs is published for x86_64 only"
  ort_package=onnxruntime-gpu ort_dir=$ORT_GPU_DIR ort_tarball=onnxruntime-linux-x64-gpu-$ORT_VERSION.tgz ort_sha256=$ORT_GPU_SHA256 ort_wheel_sha256=$ORT_GPU_WHEEL_SHA256
  get_ort
fi

# 3. golangci-lint, built from its module: the same everywhere.
if [ "$mode" = lint ] && [ ! -x "$LINT" ]; then
  say "building golangci-lint $LINT_VERSION (some minutes)"
  GOBIN=$work/bin CGO_ENABLED=0 go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$LINT_VERSION"
  mkdir -p "$CACHE/bin"
  mv "$work/bin/golangci-lint" "$LINT"
  say "golangci-lint built in ${SECONDS}s: $LINT"
fi

# 4. FFmpeg.
if have_ffmpeg; then exit; fi
tarball=$CACHE/ffmpeg-$FFMPEG_VERSION.tar.xz
the_release_page() { fetch "$FFMPEG_URL" "$work/ffmpeg.tar.xz" && sum_is "$FFMPEG_SHA256" "$work/ffmpeg.tar.xz"; }
Debian_13s_source_package() {
  debian_source ffmpeg && mv "$work/ffmpeg_$FFMPEG_VERSION.orig.tar.xz" "$work/ffmpeg.tar.xz" && sum_is "$FFMPEG_SHA256" "$work/ffmpeg.tar.xz"
}
if ! sum_is "$FFMPEG_SHA256" "$tarball"; then
  first "FFmpeg $FFMPEG_VERSION" the_release_page Debian_13s_source_package ||
    die "no source of FFmpeg could be reached; put $FFMPEG_URL at $tarball and run this again"
  mv "$work/ffmpeg.tar.xz" "$tarball"
fi
the_release_page() { fetch "$NV_URL" "$work/nv.tar" && sum_is "$NV_SHA256" "$work/nv.tar"; }
Debian_13s_source_package() {
  debian_source nv-codec-headers && mv "$work/nv-codec-headers_$NV_VERSION.orig.tar.xz" "$work/nv.tar" && sum_is "$NV_DEBIAN_SHA256" "$work/nv.tar"
}
nv=$CACHE/nv-codec-headers-$NV_VERSION
if [ ! -e "$nv/lib/pkgconfig/ffnvcodec.pc" ]; then
  first "NVIDIA's decoder headers $NV_VERSION" the_release_page Debian_13s_source_package ||
    die "no source of NVIDIA's decoder headers could be reached; install them under $nv (make install PREFIX=$nv) and run this again"
  mkdir -p "$work/nv"
  tar -C "$work/nv" --strip-components=1 -xf "$work/nv.tar"
  make -s -C "$work/nv" install PREFIX="$nv" >/dev/null
fi
tar -C "$work" -xf "$tarball"
cd "$work/ffmpeg-$FFMPEG_VERSION"
say "configuring FFmpeg"
PKG_CONFIG_PATH=$nv/lib/pkgconfig ./configure --prefix="$PREFIX" --enable-rpath "${FFMPEG_CONFIG[@]}" >"$CACHE/ffmpeg-configure.log" 2>&1 ||
  die "FFmpeg's configure failed; see $CACHE/ffmpeg-configure.log"
total=$(make -n 2>/dev/null | grep -cE '(CC|X86ASM)\b' || true)
log=$CACHE/ffmpeg-make.log
: >"$log"
SECONDS=0
make -j"$(nproc)" >"$log" 2>&1 & build=$!
while kill -0 "$build" 2>/dev/null; do
  n=$(grep -cE '^(CC|X86ASM)' "$log" || true)
  if [ -t 2 ]; then
    printf '\rdeps: building FFmpeg %4d/%s files, %ds ' "$n" "$total" "$SECONDS" >&2
    sleep 1
  else
    if [ $((SECONDS % 30)) -lt 5 ]; then say "building FFmpeg, $n/$total files, ${SECONDS}s"; fi
    sleep 5
  fi
done
if [ -t 2 ]; then echo >&2; fi
wait "$build" || die "building FFmpeg failed; see $log"
build=
make install DESTDIR="$work/root" >>"$log" 2>&1
touch "$work/root$PREFIX/ready"
rm -rf "$PREFIX"
mv "$work/root$PREFIX" "$PREFIX"
say "FFmpeg $FFMPEG_VERSION built in ${SECONDS}s: $PREFIX"
