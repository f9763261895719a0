#compdef stasis
# SPDX-License-Identifier: Apache-2.0
# zsh completion for stasis, printed by 'stasis completion zsh'. What fits the program says itself.
_stasis()
{
	local line files
	local -a candidates space
	for line in ${(f)"$(${(Q)words[1]} completion words -- "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)"}; do
		case $line in
		:files) files=1 ;;
		:nospace) space=(-S '') ;;
		*) candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
		esac
	done
	((${#candidates})) && _describe -t values stasis candidates $space
	[[ -n $files ]] && _files
}
# From a directory of $fpath this file is the function; sourced, it defines it.
if [[ $funcstack[1] == _stasis ]]; then
	_stasis "$@"
else
	compdef _stasis stasis
fi
