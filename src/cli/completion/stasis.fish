# SPDX-License-Identifier: Apache-2.0
# fish completion for stasis, printed by 'stasis completion fish'. What fits the program says itself.
function __stasis_complete
	set -l words (commandline -opc)
	set -l word (commandline -ct)
	for line in (command $words[1] completion words -- $words[2..] "$word" 2>/dev/null)
		switch $line
			case ':files'
				__fish_complete_path "$word"
			case ':*' # fish adds no space behind ':' and '=' anyway
			case '*'
				echo $line
		end
	end
end
complete -c stasis -f -a '(__stasis_complete)'
